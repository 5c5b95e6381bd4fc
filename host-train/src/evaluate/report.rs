//! What an evaluation found, as a value for scripts and as a table for people.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use gsacp_core::metrics::{BIN_LABELS, Totals};
use serde::Serialize;

/// The rates of METHOD §3 at one threshold. `None` where there was nothing to divide by.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Images scored.
    pub images: u64,
    /// Images with neither truth nor prediction, left out of nIoU.
    pub empty_images: u64,
    /// Truth components.
    pub targets: u64,
    /// Truth components with a match.
    pub matched: u64,
    /// ΣI/ΣU.
    pub miou: Option<f64>,
    /// Mean of I/U.
    pub niou: Option<f64>,
    /// Matched / truth components.
    pub pd: Option<f64>,
    /// False pixels per pixel (the table prints it ×1e6).
    pub fa: Option<f64>,
    /// False components per image.
    pub false_alarms_per_frame: Option<f64>,
    /// Area of the matches / area of their targets.
    pub area_ratio: Option<f64>,
}

/// The rates of the targets of one range of sizes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SizeRates {
    /// Area in pixels.
    pub area: &'static str,
    /// Truth components.
    pub targets: u64,
    /// Intersection over union of the targets with their matches.
    pub iou: Option<f64>,
    /// Area of the matches / area of their targets.
    pub area_ratio: Option<f64>,
    /// Matched / targets.
    pub pd: Option<f64>,
}

/// One threshold of the sweep.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RocPoint {
    /// Logit threshold.
    pub threshold: f32,
    /// Probability of detection.
    pub pd: Option<f64>,
    /// False pixels per pixel.
    pub fa: Option<f64>,
    /// ΣI/ΣU.
    pub miou: Option<f64>,
    /// False components per image.
    pub false_alarms_per_frame: Option<f64>,
}

/// The threshold of the sweep with the highest mIoU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Best {
    /// Logit threshold.
    pub threshold: f32,
    /// ΣI/ΣU there.
    pub miou: f64,
}

/// Everything an evaluation found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Logit threshold of everything but the sweep.
    pub threshold: f32,
    /// Over all images.
    pub overall: Rates,
    /// Over the thresholds of the sweep.
    pub best: Option<Best>,
    /// Mean probability on targets minus mean probability of the hardest background.
    pub margin: Option<f64>,
    /// By area of the target.
    pub by_size: Vec<SizeRates>,
    /// By the data set an image comes from, told by its name.
    pub by_source: BTreeMap<&'static str, Rates>,
    /// The sweep, thresholds rising.
    pub roc: Vec<RocPoint>,
}

impl Rates {
    /// The rates of sums; `reference_niou` counts empty images as 0.
    pub fn of(totals: &Totals, reference_niou: bool) -> Self {
        Self {
            images: totals.images,
            empty_images: totals.empty,
            targets: totals.sum.targets,
            matched: totals.sum.matched,
            miou: totals.miou(),
            niou: totals.niou(reference_niou),
            pd: totals.pd(),
            fa: totals.fa(),
            false_alarms_per_frame: totals.false_alarms_per_frame(),
            area_ratio: totals.area_ratio(),
        }
    }
}

impl SizeRates {
    /// The size bins of sums.
    pub fn of(totals: &Totals) -> Vec<Self> {
        let bins = BIN_LABELS.iter().zip(&totals.sum.bins);
        bins.map(|(&area, bin)| Self {
            area,
            targets: bin.targets,
            iou: bin.iou(),
            area_ratio: bin.area_ratio(),
            pd: bin.pd(),
        })
        .collect()
    }
}

impl RocPoint {
    /// The point of a threshold and its sums.
    pub fn of(threshold: f32, totals: &Totals) -> Self {
        Self {
            threshold,
            pd: totals.pd(),
            fa: totals.fa(),
            miou: totals.miou(),
            false_alarms_per_frame: totals.false_alarms_per_frame(),
        }
    }
}

impl Evaluation {
    /// The sweep as CSV; an empty field where a rate is undefined. `fa` is false pixels per pixel.
    pub fn roc_csv(&self) -> String {
        let field = |rate: Option<f64>| rate.map_or(String::new(), |v| format!("{v:e}"));
        let mut csv = String::from("threshold,pd,fa,miou,false_alarms_per_frame\n");
        for p in &self.roc {
            let rates = [p.pd, p.fa, p.miou, p.false_alarms_per_frame].map(field).join(",");
            let _ = writeln!(csv, "{},{rates}", p.threshold);
        }
        csv
    }

    /// The table printed by `gsacp eval`.
    pub fn table(&self, by_size: bool, by_source: bool) -> Table<'_> {
        Table { evaluation: self, by_size, by_source }
    }
}

/// An [`Evaluation`] for people.
pub struct Table<'a> {
    evaluation: &'a Evaluation,
    by_size: bool,
    by_source: bool,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = self.evaluation;
        writeln!(f, "logit > {}", e.threshold)?;
        writeln!(
            f,
            "{:<10} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8} {:>9}",
            "", "images", "targets", "mIoU", "nIoU", "Pd", "Fa e-6", "FA/frame"
        )?;
        let sources = e.by_source.iter().map(|(name, rates)| (*name, rates)).filter(|_| self.by_source);
        for (name, r) in sources.chain([("all", &e.overall)]) {
            writeln!(
                f,
                "{name:<10} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8} {:>9}",
                r.images,
                r.targets,
                number(r.miou, 4),
                number(r.niou, 4),
                number(r.pd, 4),
                number(r.fa.map(|fa| fa * 1e6), 2),
                number(r.false_alarms_per_frame, 3)
            )?;
        }
        if e.overall.empty_images > 0 {
            writeln!(f, "{} images have neither targets nor predictions", e.overall.empty_images)?;
        }
        if self.by_size {
            writeln!(f, "\n{:<10} {:>7} {:>7} {:>10} {:>7}", "area, px", "targets", "IoU", "area ratio", "Pd")?;
            for bin in &e.by_size {
                writeln!(
                    f,
                    "{:<10} {:>7} {:>7} {:>10} {:>7}",
                    bin.area,
                    bin.targets,
                    number(bin.iou, 4),
                    number(bin.area_ratio, 3),
                    number(bin.pd, 4)
                )?;
            }
        }
        if let Some(best) = &e.best {
            writeln!(f, "best mIoU of the sweep {:.4} at logit > {}", best.miou, best.threshold)?;
        }
        write!(f, "margin {} (mean probability on targets − on the hardest background)", number(e.margin, 3))
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("–".into(), |v| format!("{v:.digits$}"))
}
