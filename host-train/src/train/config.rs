//! The configuration of a run: one TOML file, one struct, every key with a default, unknown keys refused.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use gsacp_core::graph::{self, Graph, Op};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::average::EmaConfig;
use super::optimizer::AdamConfig;
use super::schedule::ScheduleConfig;
use crate::data::augment::Augment;
use crate::data::train_set::Plan;
use crate::model::params;
use crate::supervision::SupervisionConfig;

/// Everything that decides what a run computes, besides its data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Seed of initial weights, order, crops and augmentation. Default 0.
    pub seed: u64,
    /// When checkpoints are written.
    pub checkpoint: CheckpointConfig,
    /// The network.
    pub model: ModelConfig,
    /// Crops and augmentation.
    pub data: Augment,
    /// Length, batch and learning rate.
    pub schedule: ScheduleConfig,
    /// AdamW and clipping.
    pub optimizer: AdamConfig,
    /// What turns points into a loss.
    pub supervision: SupervisionConfig,
    /// Training for int8.
    pub quantisation: QuantisationConfig,
    /// Average of the weights.
    pub ema: EmaConfig,
    /// Validation during training.
    pub evaluation: EvaluationConfig,
}

/// Which network is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Channel widths by name. Default `quarter`.
    pub widths: Widths,
    /// 1, or 3 equal channels as in the reference. Default 1.
    pub input_channels: u16,
    /// Whether batch norms keep the running statistics that the run starts with, and use them: what a run on batches of one
    /// frame (`data.shrink`) needs, whose own statistics say little. Such a run starts from a trained model. Default false.
    pub frozen_norms: bool,
    /// Which of the network's parameters learn. Default `all`.
    pub learning: Learning,
}

/// The parameters that learn; the others keep the values that the run starts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Learning {
    /// All of them.
    #[default]
    All,
    /// Those of the spatial gates, which networks set side by side share (`gsacp widen`). Such a run starts from a
    /// trained model.
    Gates,
}

impl Learning {
    /// The names of the parameters that learn.
    pub fn names(self, graph: &Graph) -> BTreeSet<String> {
        let takes = |op| self == Learning::All || matches!(op, Op::SpatialGate(_));
        let ids = (0..graph.nodes().len()).filter(|&id| takes(graph.nodes()[id].op));
        ids.flat_map(|id| params::of_node(graph, id)).map(|param| param.name).collect()
    }
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self { widths: Widths::Quarter, input_channels: 1, frozen_norms: false, learning: Learning::All }
    }
}

/// The named channel widths of METHOD §1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Widths {
    /// 4, 8, 16, 16, 16: for a microcontroller.
    Quarter,
    /// 8, 16, 32, 32, 32.
    Half,
    /// 16, 32, 64, 64, 64: the reference's.
    Full,
}

impl Widths {
    /// Channels at the five resolutions.
    pub fn channels(self) -> [u16; 5] {
        match self {
            Widths::Quarter => graph::QUARTER,
            Widths::Half => graph::HALF,
            Widths::Full => graph::FULL,
        }
    }
}

/// Quantisation-aware fine-tuning: every map is rounded to int8 steps on its way forward (its gradient passes as if it
/// were not), and the batch norms keep the running statistics that will be folded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuantisationConfig {
    /// Whether maps are rounded; such a run starts from a trained model. Default false.
    pub aware: bool,
    /// Training images that choose the ranges, once, with the first weights. Default 64.
    pub images: usize,
    /// Seed of their draw. Default 1.
    pub seed: u64,
}

impl Default for QuantisationConfig {
    fn default() -> Self {
        Self { aware: false, images: 64, seed: 1 }
    }
}

/// When checkpoints are written and which are kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Minutes between two checkpoints. Default 3.
    pub minutes: f64,
    /// How many of the last epochs keep a checkpoint of their own (`epoch-0042.safetensors`). Default 0.
    pub keep_late: u32,
    /// Whether models are written in half precision (`last.safetensors`, which a run goes on from, never is). Default false.
    pub half_precision: bool,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { minutes: 3.0, keep_late: 0, half_precision: false }
    }
}

/// Validation with the averaged weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationConfig {
    /// Every how many epochs; the last epoch always is. 0: never. Default 5.
    pub every: u32,
    /// At most this many images, evenly spaced in the list; 0: all. Default 100.
    pub limit: usize,
    /// The best checkpoint is the one of the highest mIoU over the thresholds whose Fa, in false pixels per million,
    /// is at most this. Default 40.
    pub fa_limit: f64,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self { every: 5, limit: 100, fa_limit: 40.0 }
    }
}

impl RunConfig {
    /// Reads `path` (none: every default) and applies `overrides` of the form `section.key=value`.
    pub fn load(path: Option<&Path>, overrides: &[String]) -> Result<Self> {
        let text = match path {
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the configuration {}", path.display()))?,
            None => String::new(),
        };
        let name = path.map_or("the defaults".to_string(), |path| path.display().to_string());
        // The file by itself first, so that its errors show its own lines.
        toml::from_str::<Self>(&text).with_context(|| format!("{name} is no configuration"))?;
        let mut table: Table = text.parse()?;
        for item in overrides {
            set(&mut table, item)?;
        }
        let config: Self = toml::from_str(&toml::to_string(&table)?)
            .with_context(|| format!("{name} with --set {} is no configuration", overrides.join(" --set ")))?;
        config.check().with_context(|| format!("in {name}"))?;
        Ok(config)
    }

    /// Reads a resolved configuration back.
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text)?;
        config.check()?;
        Ok(config)
    }

    /// The configuration with every key, as TOML.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string_pretty(self)?)
    }

    /// The keys, dotted, in which two configurations differ, each with both values.
    pub fn differences(&self, other: &Self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        compare("", &Value::try_from(self)?, &Value::try_from(other)?, &mut found);
        Ok(found)
    }

    /// Why such a run must start from a trained model, where it must.
    pub fn needs_model(&self) -> Option<&'static str> {
        let reasons = [
            (self.quantisation.aware, "quantisation.aware fine-tunes a trained model"),
            (self.model.frozen_norms, "model.frozen_norms keeps the statistics of a trained model"),
            (self.model.learning != Learning::All, "model.learning keeps the other weights of a trained model"),
        ];
        reasons.into_iter().find_map(|(set, reason)| set.then_some(reason))
    }

    /// What decides the batches.
    pub fn plan(&self) -> Plan {
        Plan { seed: self.seed, batch: self.schedule.batch, augment: self.data.clone() }
    }

    fn check(&self) -> Result<()> {
        ensure!(self.seed <= i64::MAX as u64, "seed is {}, more than TOML can hold", self.seed);
        self.schedule.check()?;
        let channels = self.model.input_channels;
        ensure!(matches!(channels, 1 | 3), "model.input_channels is {channels}, and the network has 1 or 3");
        self.data.validate().context("in [data]")?;
        self.supervision.validate().context("in [supervision]")?;
        ensure!(
            !(self.supervision.prior.registered && self.data.flips),
            "supervision.prior.registered moves masks in one direction, which mirrored crops turn, so that no network can learn it: set data.flips = false"
        );
        let images = self.quantisation.images;
        ensure!((1..=100_000).contains(&images), "quantisation.images is {images}, outside 1..=100000");
        within("optimizer.beta1", self.optimizer.beta1, 0.0, 0.9999)?;
        within("optimizer.beta2", self.optimizer.beta2, 0.0, 0.999_999)?;
        within("optimizer.epsilon", self.optimizer.epsilon, 1e-12, 1.0)?;
        within("optimizer.weight_decay", self.optimizer.weight_decay, 0.0, 10.0)?;
        within("optimizer.clip_norm", self.optimizer.clip_norm, 1e-6, 1e9)?;
        within("ema.decay", self.ema.decay, 0.0, 0.999_999)?;
        within("checkpoint.minutes", self.checkpoint.minutes, 0.0, 1e6)?;
        within("evaluation.fa_limit", self.evaluation.fa_limit, 0.0, 1e6)
    }
}

fn within(key: &str, value: f64, low: f64, high: f64) -> Result<()> {
    ensure!((low..=high).contains(&value), "{key} is {value}, outside {low}..={high}");
    Ok(())
}

/// Applies `a.b=value`; a value that is no TOML is taken as text.
fn set(table: &mut Table, item: &str) -> Result<()> {
    let Some((path, text)) = item.split_once('=') else { bail!("--set {item}: write it as section.key=value") };
    let (path, text) = (path.trim(), text.trim());
    let value = match format!("v = {text}").parse::<Table>() {
        Ok(mut parsed) => parsed.remove("v").unwrap_or_else(|| Value::String(text.into())),
        Err(_) => Value::String(text.into()),
    };
    let mut parts: Vec<&str> = path.split('.').collect();
    let key = parts.pop().filter(|key| !key.is_empty()).with_context(|| format!("--set {item}: no key"))?;
    let mut here = table;
    for part in parts {
        let next = here.entry(part).or_insert_with(|| Value::Table(Table::new()));
        here = next.as_table_mut().with_context(|| format!("--set {item}: {part} is a value, not a section"))?;
    }
    // Epochs and steps exclude each other: the one that is set replaces the other one of the file.
    match path {
        "schedule.epochs" => here.remove("steps"),
        "schedule.steps" => here.remove("epochs"),
        _ => None,
    };
    here.insert(key.to_string(), value);
    Ok(())
}

fn compare(path: &str, a: &Value, b: &Value, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Table(a), Value::Table(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => compare(&path, a, b, found),
                    (Some(a), None) => found.push(format!("{path} ({a} → unset)")),
                    (None, Some(b)) => found.push(format!("{path} (unset → {b})")),
                    (None, None) => {}
                }
            }
        }
        _ if a != b => found.push(format!("{path} ({a} → {b})")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, overrides: &[&str]) -> Result<RunConfig> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        RunConfig::load(Some(&path), &overrides.iter().map(|s| s.to_string()).collect::<Vec<_>>())
    }

    fn refusal(text: &str, overrides: &[&str]) -> String {
        format!("{:#}", load(text, overrides).unwrap_err())
    }

    #[test]
    fn an_empty_file_is_the_defaults_and_the_resolved_text_reads_back() {
        let config = load("", &[]).unwrap();
        assert_eq!(config, RunConfig::default());
        assert_eq!(RunConfig::parse(&config.to_toml().unwrap()).unwrap(), config);
        assert!(config.to_toml().unwrap().contains("clip_norm = 5.0"));
    }

    #[test]
    fn unknown_keys_and_impossible_values_are_named() {
        assert!(refusal("[data]\ncrpo = 64", &[]).contains("crpo"));
        assert!(refusal("[data]\ncrop = 65", &[]).contains("crop = 65"));
        assert!(refusal("[data]\ncrop = \"big\"", &[]).contains("crop"));
        assert!(refusal("[model]\nwidths = \"tiny\"", &[]).contains("tiny"));
        assert!(refusal("[model]\ninput_channels = 2", &[]).contains("model.input_channels is 2"));
        assert!(refusal("[ema]\ndecay = nan", &[]).contains("ema.decay"));
        assert!(refusal("", &["schedule.lr=-1"]).contains("schedule.lr is -1"));
        assert!(refusal("", &["schedule.rate=1"]).contains("rate"));
        assert!(refusal("", &["lr"]).contains("section.key=value"));
        assert!(refusal("seed = 1", &["seed.x=1"]).contains("seed is a value"));
    }

    #[test]
    fn overrides_replace_the_files_values() {
        let config = load("[schedule]\nepochs = 7\n", &["schedule.steps=9", "model.widths=half", "seed=4"]).unwrap();
        assert_eq!((config.schedule.steps, config.schedule.epochs), (Some(9), None));
        assert_eq!((config.model.widths, config.seed), (Widths::Half, 4));
    }

    /// The committed file `configs/{name}.toml`.
    fn committed(name: &str) -> RunConfig {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(format!("{name}.toml"));
        RunConfig::load(Some(&path), &[]).unwrap()
    }

    #[test]
    fn every_committed_configuration_loads() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
        for (below, least) in [("", 15), ("failure", 6)] {
            let entries = std::fs::read_dir(folder.join(below)).unwrap().map(|entry| entry.unwrap().path());
            let files: Vec<_> = entries.filter(|path| path.is_file()).collect();
            assert!(files.len() >= least, "{below}: {files:?}");
            for path in files {
                RunConfig::load(Some(&path), &[]).unwrap();
            }
        }
    }

    #[test]
    fn every_mechanism_and_every_failure_is_one_key() {
        for (name, parent, key) in [
            ("gsacp-plain", "gsacp-base", "supervision.gsacp.lambda_hbc (0.5 → 0.0)"),
            ("gsacp-decay", "gsacp-plain", "supervision.gsacp.prop_decay_from (1.0 → 0.5)"),
            ("gsacp-ltd", "gsacp-decay", "supervision.gsacp.ltd_beta (0.0 → 0.5)"),
            ("gsacp-hbc", "gsacp-plain", "supervision.gsacp.lambda_hbc (0.0 → 0.5)"),
            ("gsacp-asg", "gsacp-plain", "supervision.gsacp.asg_gate (\"off\" → \"reliable\")"),
            ("failure/full-detach", "gsacp-plain", "supervision.gsacp.detach_features (false → true)"),
            ("failure/global-teacher", "gsacp-ltd", "supervision.gsacp.ltd_region (\"disks\" → \"everywhere\")"),
            ("failure/positive-prototype", "gsacp-hbc", "supervision.gsacp.lambda_proto (0.0 → 0.5)"),
            ("failure/free-radius", "gsacp-asg", "supervision.gsacp.asg_gate (\"reliable\" → \"free\")"),
            ("failure/shallow-features", "gsacp-plain", "supervision.gsacp.features (\"decoder\" → \"shallow\")"),
            ("failure/small-margin", "gsacp-plain", "supervision.gsacp.margin (0.6 → 0.1)"),
        ] {
            assert_eq!(committed(parent).differences(&committed(name)).unwrap(), [key], "{name}");
        }
        // Final is ASG and HBC; the late checkpoints that it keeps change nothing of the training.
        let kept = committed("gsacp-asg").differences(&committed("gsacp-final")).unwrap();
        assert_eq!(kept, ["checkpoint.keep_late (0 → 6)", "supervision.gsacp.lambda_hbc (0.0 → 0.5)"]);
    }

    #[test]
    fn a_difference_is_named_by_its_dotted_key() {
        let mut other = RunConfig::default();
        other.schedule.lr = 1.0;
        other.schedule.steps = Some(3);
        let found = RunConfig::default().differences(&other).unwrap();
        assert_eq!(found, ["schedule.lr (0.002 → 1.0)", "schedule.steps (unset → 3)"]);
    }
}
