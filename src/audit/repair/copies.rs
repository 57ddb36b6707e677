//! Copies that are ahead of their source: the source steps over them, and tells what it is anew.

use super::{Action, Mended, Plan};
use crate::audit::RoleDbs;
use crate::audit::copies::contradicts;
use crate::db::audit::{self as facts, MerchantFact};
use crate::db::merchants::{self, Merchant};
use crate::db::stock::{self, Stocked};
use crate::db::{DbError, Tx};

/// What the order role knows of a SKU. The freeze decides by the level of the stock role, so that is what it has to
/// know.
pub(super) async fn of_sku(dbs: &RoleDbs, sku: &str) -> Result<Plan, DbError> {
    let skus = [sku.to_owned()];
    let copy = facts::sku_copies(&mut *dbs.order.read().await?, &skus).await?.remove(sku);
    let source = stock::get(&mut *dbs.stock.read().await?, skus.to_vec()).await?.remove(sku);
    let Some(copy) = copy else { return Ok(Plan::Healed) };

    Ok(match source {
        None => Plan::Leave(format!(
            "the stock role does not know {sku}, which was set after the backup: count the pieces, `ruyi stock set`, \
             and run again"
        )),
        Some(source) if contradicts(&copy, &source, |one| one.version) => {
            Plan::Mend(Action::TellStock(sku.to_owned(), copy))
        }
        Some(_) => Plan::Healed,
    })
}

/// Has the level of a SKU told as a later version than `copy`.
pub(super) async fn step_over_sku(tx: &mut Tx, sku: &str, copy: Stocked) -> Result<Mended, DbError> {
    let Some(source) = stock::lock(tx, vec![sku.to_owned()]).await?.remove(sku) else { return Ok(Mended::Healed) };
    if !contradicts(&copy, &source, |one| one.version) {
        return Ok(Mended::Healed);
    }

    let next = copy.version.saturating_add(1);
    stock::step_over(tx, sku, next).await?;
    Ok(Mended::Done(format!("version {} → {next}, which the stock role tells", source.version)))
}

/// What the payment role knows of a merchant.
pub(super) async fn of_merchant(dbs: &RoleDbs, id: i64) -> Result<Plan, DbError> {
    let copy = facts::merchant_copies(&mut *dbs.payment.read().await?, &[id]).await?.remove(&id);
    let source = facts::merchants(&mut *dbs.notify.read().await?, &[id]).await?.remove(&id);
    let Some(copy) = copy else { return Ok(Plan::Healed) };

    Ok(match source {
        None => Plan::Leave(format!(
            "the notify role does not know merchant {id}, which was made after the backup: PUT it as the payment role \
             knows it (table merchant_account), and run again"
        )),
        Some(source) if !contradicts(&copy, &source, |one| one.version) => Plan::Healed,
        Some(source) => match undecided(id, &copy, &source) {
            Some(why) => Plan::Leave(why),
            None => Plan::Mend(Action::TellMerchant(id, Box::new(copy))),
        },
    })
}

/// Why the tool must not choose between what both roles say of a merchant. One that was locked out after the backup
/// would go on if the restored row counted; a row that locks it out gives nobody anything.
fn undecided(id: i64, copy: &MerchantFact, source: &MerchantFact) -> Option<String> {
    let differences = copy.differences(source);
    (source.active && !differences.is_empty()).then(|| {
        format!(
            "the payment role was told of a later state with other {}: the backup may have lost it, or somebody has \
             changed the merchant since. PUT merchant {id} as the payment role knows it (table merchant_account), run \
             again, and only then PUT what is to be otherwise",
            differences.join(", ")
        )
    })
}

/// Tells of a merchant as a later version than `copy`.
pub(super) async fn step_over_merchant(tx: &mut Tx, id: i64, copy: &MerchantFact) -> Result<Mended, DbError> {
    let Some(known) = merchants::lock(tx, vec![id]).await?.remove(&id) else { return Ok(Mended::Healed) };
    let source = MerchantFact::from(&known);
    if !contradicts(copy, &source, |one| one.version) {
        return Ok(Mended::Healed);
    }
    if let Some(why) = undecided(id, copy, &source) {
        return Ok(Mended::Left(why));
    }

    let (before, version) = (known.version, copy.version.saturating_add(1));
    let merchant = Merchant { version, updated_at: tx.now_ms(), ..known };
    merchants::put(tx, &merchant).await?;
    merchants::tell(tx, &merchant)?;
    Ok(Mended::Done(format!("version {before} → {version}, which is told")))
}
