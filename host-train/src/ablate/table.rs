//! What the ledger says: the mean of every variant over its seeds, and its difference to its parent.
//!
//! The difference is paired: the mean over the seeds that both have of (variant − parent), with the least and the greatest
//! of them, so that a claim that one seed contradicts is seen as such.

use std::fmt::Write as _;

use serde::Serialize;

use super::ledger::Entry;
use super::plan::Plan;

/// Rates at the threshold of the highest mIoU within the limit of Fa.
const RATES: [&str; 4] = ["miou", "niou", "pd", "fa"];

/// One variant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What it is compared with.
    pub parent: Option<String>,
    /// The key that it changes.
    pub difference: Option<String>,
    /// Seeds that are finished.
    pub seeds: Vec<u64>,
    /// Means over the seeds.
    pub miou: Option<f64>,
    /// Mean nIoU.
    pub niou: Option<f64>,
    /// Mean Pd.
    pub pd: Option<f64>,
    /// Mean Fa, a fraction of the pixels.
    pub fa: Option<f64>,
    /// Paired difference of mIoU to the parent.
    pub against_parent: Option<Difference>,
    /// Training, seconds in all.
    pub seconds: f64,
}

/// A paired difference of mIoU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Seeds that both have.
    pub seeds: usize,
    /// Mean.
    pub mean: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub greatest: f64,
}

/// The rows of a plan, in its order, of the entries of its runs.
pub fn rows(plan: &Plan, entries: &[&Entry]) -> Vec<Row> {
    let of = |name: &str| entries.iter().filter(|entry| entry.name == name).copied().collect::<Vec<_>>();
    plan.variants
        .iter()
        .map(|variant| {
            let own = of(&variant.name);
            let [miou, niou, pd, fa] = RATES.map(|key| mean(own.iter().filter_map(|entry| rate(entry, key))));
            let theirs = variant.parent.as_deref().map(of).unwrap_or_default();
            let pairs: Vec<f64> = own
                .iter()
                .filter_map(|entry| {
                    let other = theirs.iter().find(|other| other.seed == entry.seed)?;
                    Some(rate(entry, "miou")? - rate(other, "miou")?)
                })
                .collect();
            Row {
                name: variant.name.clone(),
                parent: variant.parent.clone(),
                difference: variant.difference.clone(),
                seeds: own.iter().map(|entry| entry.seed).collect(),
                miou,
                niou,
                pd,
                fa,
                against_parent: mean(pairs.iter().copied()).map(|mean| Difference {
                    seeds: pairs.len(),
                    mean,
                    least: pairs.iter().copied().fold(f64::INFINITY, f64::min),
                    greatest: pairs.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                }),
                seconds: own.iter().map(|entry| entry.seconds).sum(),
            }
        })
        .collect()
}

fn rate(entry: &Entry, key: &str) -> Option<f64> {
    entry.metrics.get("best")?.get("rates")?.get(key)?.as_f64()
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

/// The rows for people, as a Markdown table.
pub fn text(rows: &[Row]) -> String {
    let number = |value: Option<f64>, scale: f64, digits: usize| {
        value.map_or("–".to_string(), |value| format!("{:.digits$}", value * scale))
    };
    let mut text = String::from(
        "| variant | against | change | seeds | mIoU | nIoU | Pd | Fa ×1e-6 | Δ mIoU (least … greatest) |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let difference = row.against_parent.map_or("–".to_string(), |d| match d.seeds {
            1 => format!("{:+.4} (one seed)", d.mean),
            _ => format!("{:+.4} ({:+.4} … {:+.4})", d.mean, d.least, d.greatest),
        });
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {difference} |",
            row.name,
            row.parent.as_deref().unwrap_or("–"),
            row.difference.as_deref().unwrap_or("–"),
            row.seeds.len(),
            number(row.miou, 1.0, 4),
            number(row.niou, 1.0, 4),
            number(row.pd, 1.0, 4),
            number(row.fa, 1e6, 1),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::ledger::tests::entry;
    use super::*;

    #[test]
    fn differences_are_between_runs_of_the_same_seed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.toml");
        let plan = "seeds = [1, 2, 3]\nlist = \"a\"\nval_list = \"b\"\n[[variant]]\nname = \"wide\"\nparent = \"base\"\nset = \"data.crop=256\"\n[[variant]]\nname = \"late\"\nparent = \"wide\"\nset = \"ema.decay=0.5\"\n";
        std::fs::write(&path, plan).unwrap();
        let plan = Plan::read(&path).unwrap();
        let entries = [
            entry("base", None, 1, 0.50),
            entry("base", None, 2, 0.60),
            entry("base", None, 3, 0.90),
            entry("wide", Some("base"), 1, 0.52),
            entry("wide", Some("base"), 2, 0.59),
        ];
        let rows = rows(&plan, &entries.iter().collect::<Vec<_>>());
        // Seed 3 has no partner: (0.02 − 0.01)/2, not 0.555 − 2/3.
        let difference = rows[1].against_parent.unwrap();
        assert_eq!(difference.seeds, 2);
        for (value, expected) in [
            (difference.mean, 0.005),
            (difference.least, -0.01),
            (difference.greatest, 0.02),
            (rows[1].miou.unwrap(), 0.555),
        ] {
            assert!((value - expected).abs() < 1e-12, "{value} {expected}");
        }
        assert!((rows[0].miou.unwrap() - 2.0 / 3.0).abs() < 1e-12 && rows[0].against_parent.is_none());
        assert_eq!((rows[2].seeds.len(), rows[2].miou, rows[2].against_parent), (0, None, None));
        let text = text(&rows);
        assert!(text.contains("| wide | base | data.crop (128 → 256) | 2 | 0.5550 | 0.6050 | 0.9000 | 20.0 | +0.0050 (-0.0100 … +0.0200) |"), "{text}");
        assert!(text.contains("| late | wide | ema.decay (0.999 → 0.5) | 0 | – |"), "{text}");
    }
}
