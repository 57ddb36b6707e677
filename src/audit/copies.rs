//! What roles keep of the rows of others: a copy is what its source was, and so never newer, nor of the same version and
//! different. One that is merely behind is on its way, and `events_consumed` sees to that.

use super::{About, Auditor, Suspect, stock::show};
use crate::db::DbError;
use crate::db::audit::{self as facts, MerchantFact};
use crate::db::stock::{self, Stocked};

/// A copy, read before `source`, that cannot have come from it: after a restored backup it stays as it is, because it
/// ignores whatever is older.
pub(super) fn contradicts<T: PartialEq>(copy: &T, source: &T, version: impl Fn(&T) -> i64) -> bool {
    version(copy) > version(source) || (version(copy) == version(source) && copy != source)
}

/// `copies`, of stock: SKUs that the order role was told of.
pub(super) async fn skus(auditor: &Auditor<'_>, skus: &[String]) -> Result<Vec<Suspect<String>>, DbError> {
    // The copies first: a source only grows.
    let copies = facts::sku_copies(&mut *auditor.dbs.order.read().await?, skus).await?;
    let sources = stock::get(&mut *auditor.dbs.stock.read().await?, copies.keys().cloned().collect()).await?;

    let doubt = |sku: &String, copy: &Stocked| {
        let told = format!("the order role was told of version {} ({})", copy.version, show(copy.level));
        match sources.get(sku) {
            None => Some(format!("{told}, and there is no such SKU in stock")),
            Some(source) if contradicts(copy, source, |one| one.version) => {
                Some(format!("{told}, stock has version {} ({})", source.version, show(source.level)))
            }
            Some(_) => None,
        }
    };
    let suspect = |(sku, copy): (&String, &Stocked)| {
        let (id, key, about) = (sku.clone(), sku.clone(), About::SkuCopy(sku.clone()));
        doubt(sku, copy).map(|evidence| Suspect { id, key, evidence, about })
    };
    Ok(copies.iter().filter_map(suspect).collect())
}

/// `copies`, of merchants: each of them that the payment role was told of.
pub(super) async fn merchants(auditor: &Auditor<'_>, ids: &[i64]) -> Result<Vec<Suspect<i64>>, DbError> {
    // The copies first, here as well.
    let copies = facts::merchant_copies(&mut *auditor.dbs.payment.read().await?, ids).await?;
    let sources = facts::merchants(&mut *auditor.dbs.notify.read().await?, ids).await?;

    let doubt = |id: &i64, copy: &MerchantFact| {
        let told = format!("the payment role was told of version {} of merchant {id}", copy.version);
        match sources.get(id) {
            None => Some(format!("{told}, and there is no such merchant")),
            Some(source) if contradicts(copy, source, |one| one.version) => {
                let differences = match copy.differences(source).as_slice() {
                    [] => "which says the same".to_owned(),
                    names => format!("with other {}", names.join(", ")),
                };
                Some(format!("{told}, the notify role has version {}, {differences}", source.version))
            }
            Some(_) => None,
        }
    };
    let suspect = |(id, copy): (&i64, &MerchantFact)| {
        let about = About::MerchantCopy(*id);
        doubt(id, copy).map(|evidence| Suspect { about, ..Suspect::of(*id, evidence) })
    };
    Ok(copies.iter().filter_map(suspect).collect())
}
