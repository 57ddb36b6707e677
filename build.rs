//! Embeds `migrations/*.sql`. `sqlx::migrate!` would do it too, at the price of building sqlx and its drivers twice.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=migrations");

    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("migrations");
    let mut files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "sql"));
    files.sort();

    let mut list = String::from("[\n");
    for file in &files {
        let (version, name) = number_and_name(file)?;
        writeln!(list, "    ({version}, {name:?}, include_str!({file:?})),")?;
    }
    list.push_str("]\n");

    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("migrations.rs"), list)?;
    Ok(())
}

/// `0003_order_lines.sql` is 3 and `order lines`, as sqlx reads it.
fn number_and_name(file: &Path) -> Result<(i64, String), Box<dyn Error>> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).ok_or("a migration's name is not UTF-8")?;
    let (number, name) = stem.split_once('_').ok_or_else(|| format!("{stem}: wanted is <number>_<name>.sql"))?;
    let version = number.parse().map_err(|error| format!("{stem}: {error}"))?;
    Ok((version, name.replace('_', " ")))
}
