//! `gsacp ablate`: runs a plan of single-variable variants into a ledger.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_core::Device;
use clap::Args;
use crc::{CRC_64_XZ, Crc};
use serde_json::{Value, json};

use super::train::POINT_SEED;
use super::words::{print, quoted};
use crate::ablate::ledger::{Entry, Fingerprints, Ledger};
use crate::ablate::plan::{Plan, Run};
use crate::ablate::{revision, table};
use crate::data::dataset::Dataset;
use crate::data::points::Source;
use crate::train::config::EvaluationConfig;
use crate::train::device::DeviceKind;
use crate::train::run::{self, Ending, RunFolder};
use crate::train::setup::{DataSource, begin};
use crate::train::validate::Validator;

/// Trains variants that each change one key, writes a ledger and prints what each change is worth.
///
/// A plan that is run again goes on where it was stopped. To share it between machines, run the commands that --emit
/// prints anywhere and write the ledgers one behind the other.
#[derive(Args, Debug)]
pub struct AblateArgs {
    /// The plan (TOML): config, set, seeds, list, val_list and [[variant]] with name, parent and set.
    plan: PathBuf,
    /// Data-set folder; without it the plan's.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder of the run folders.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The ledger; ledger.jsonl in --out unless given.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Only this run, as --emit writes it; may be repeated.
    #[arg(long = "run", value_name = "NAME:SEED")]
    only: Vec<String>,
    /// Print one command for every run that is not in the ledger, and run nothing.
    #[arg(long)]
    emit: bool,
    /// Print the table of what the ledger holds, and run nothing.
    #[arg(long, conflicts_with = "emit")]
    table: bool,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    device: DeviceKind,
    /// Stop after this many minutes; the same command goes on.
    #[arg(long)]
    max_minutes: Option<f64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Everything that is the same for all runs of a call.
struct Bench<'a> {
    plan: &'a Plan,
    source: DataSource,
    validation: Dataset,
    /// Of the validation data and the initial model; that of the training data is known when it is read.
    validation_print: String,
    init_print: Option<String>,
    device: Device,
    threads: usize,
    revision: Option<String>,
    deadline: Option<Instant>,
}

impl AblateArgs {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let limit = super::train::minutes(self.max_minutes)?;
        let plan = Plan::read(&self.plan)?;
        let path = self.ledger.clone().unwrap_or_else(|| self.out.join("ledger.jsonl"));
        let mut ledger = Ledger::read(&path)?;
        ledger.of_plan(&plan)?;
        let runs = self.chosen(&plan)?;
        let pending: Vec<&Run> = runs.iter().filter(|run| ledger.entry(run).is_none()).collect();
        if self.emit {
            return self.emit(&pending);
        }
        let mut stopped = false;
        if !self.table && !pending.is_empty() {
            let bench = self.bench(&plan, limit)?;
            make_folder(&self.out)?;
            // A ledger that cannot be written is found before the first run, not after it.
            make_folder(path.parent().unwrap_or(Path::new("")))?;
            ledger = Ledger::open(&path)?;
            for (index, run) in pending.iter().enumerate() {
                eprintln!("run {} of {}: {}", index + 1, pending.len(), run.label());
                match bench.finish(run, &run.folder(&self.out), &ledger)? {
                    Some(entry) => ledger.append(entry)?,
                    None => {
                        eprintln!("stopped; the same command goes on with {}", run.label());
                        stopped = true;
                        break;
                    }
                }
            }
        }
        let rows = table::rows(&plan, &ledger.of_plan(&plan)?);
        if self.json {
            let left: Vec<String> = runs.iter().filter(|run| ledger.entry(run).is_none()).map(Run::label).collect();
            let record = json!({"rows": rows, "pending": left, "stopped": stopped});
            return print(&format!("{}\n", serde_json::to_string_pretty(&record)?));
        }
        print(&table::text(&rows))
    }

    /// The plan's runs, or those of `--run`.
    fn chosen<'a>(&self, plan: &'a Plan) -> Result<Vec<Run<'a>>> {
        let all = plan.runs();
        let labels: Vec<String> = all.iter().map(Run::label).collect();
        if let Some(unknown) = self.only.iter().find(|label| !labels.contains(label)) {
            bail!("--run {unknown}: the plan has no such run; its runs are {}", labels.join(", "));
        }
        Ok(all.into_iter().filter(|run| self.only.is_empty() || self.only.contains(&run.label())).collect())
    }

    fn bench<'a>(&self, plan: &'a Plan, limit: Option<Duration>) -> Result<Bench<'a>> {
        let dir = self.data.clone().or_else(|| plan.data.clone());
        let dir = dir.with_context(|| format!("{} names no data: give --data", self.plan.display()))?;
        let points = match &plan.points {
            Some(path) => Source::File(path.clone()),
            None => Source::Masks { kind: plan.point_kind, seed: POINT_SEED },
        };
        Dataset::open(&dir, &plan.list)?;
        let validation = Dataset::open(&dir, &plan.val_list)?;
        validation.require_masks()?;
        let init_print = match &plan.init {
            Some(path) => {
                let bytes =
                    std::fs::read(path).with_context(|| format!("cannot read the plan's init {}", path.display()))?;
                Some(format!("{:016x}", Crc::<u64>::new(&CRC_64_XZ).checksum(&bytes)))
            }
            None => None,
        };
        Ok(Bench {
            plan,
            source: DataSource {
                dir,
                list: plan.list.clone(),
                points,
                clutter: plan.clutter.clone(),
                teachers: Vec::new(),
            },
            validation_print: format!("{:016x}", validation.fingerprint()?),
            validation,
            init_print,
            device: self.device.open()?,
            threads: self.device.loader_threads(),
            revision: revision::of_checkout(),
            deadline: limit.map(|limit| Instant::now() + limit),
        })
    }

    /// One command per run. Each writes a ledger of its own, so that no two machines write one file.
    fn emit(&self, runs: &[&Run]) -> Result<()> {
        let commands = runs.iter().map(|run| {
            let folder = run.folder(&self.out);
            let mut words = vec!["gsacp".into(), "ablate".into(), self.plan.display().to_string()];
            let mut option = |name: &str, value: String| words.extend([name.to_string(), value]);
            if let Some(data) = &self.data {
                option("--data", data.display().to_string());
            }
            option("--out", self.out.display().to_string());
            option("--ledger", folder.join("ledger.jsonl").display().to_string());
            option("--run", run.label());
            if self.device == DeviceKind::Cuda {
                option("--device", "cuda".into());
            }
            if let Some(minutes) = self.max_minutes {
                option("--max-minutes", minutes.to_string());
            }
            quoted(words)
        });
        let commands: Vec<String> = commands.collect();
        print(&match self.json {
            true => format!("{}\n", serde_json::to_string_pretty(&commands)?),
            false => commands.iter().flat_map(|command| [command.as_str(), "\n"]).collect(),
        })
    }
}

impl Bench<'_> {
    /// Trains a run to its end, from where it was, and measures it; `None` when it was stopped before.
    fn finish(&self, run: &Run, path: &Path, ledger: &Ledger) -> Result<Option<Entry>> {
        let of = || format!("run {}", run.label());
        let left = match self.deadline {
            Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                Some(left) => Some(left),
                None => return Ok(None),
            },
            None => None,
        };
        make_folder(path)?;
        let resume = path.join("last.safetensors").is_file();
        let folder = RunFolder::open(path, resume)?;
        let init = self.plan.init.as_deref();
        let (mut trainer, set) =
            begin(run.config(), &self.source, &folder, resume, init, &self.device).with_context(of)?;
        let data = Fingerprints {
            train: trainer.progress.data.clone(),
            validation: self.validation_print.clone(),
            init: self.init_print.clone(),
        };
        if let Some(first) = ledger.of_plan(self.plan)?.first() {
            first
                .data
                .check(&data)
                .with_context(|| format!("the ledger's {} was measured otherwise", first.label()))?;
        }
        let EvaluationConfig { limit, fa_limit, .. } = trainer.config().evaluation;
        let validator = Validator::new(&self.validation, limit, fa_limit, trainer.info(), &self.device)?;
        let ending = run::run(&mut trainer, set, self.threads, Some(&validator), &folder, left).with_context(of)?;
        if ending != Ending::Finished {
            return Ok(None);
        }
        let whole = match limit == 0 || limit >= self.validation.samples.len() {
            true => validator,
            false => Validator::new(&self.validation, 0, fa_limit, trainer.info(), &self.device)?,
        };
        let metrics = trainer.with_average(|model| whole.evaluate(model)).with_context(of)?;
        eprintln!("{}: {metrics}", run.label());
        Ok(Some(Entry {
            name: run.variant.name.clone(),
            parent: run.variant.parent.clone(),
            difference: run.variant.difference.clone(),
            seed: run.seed,
            revision: self.revision.clone(),
            code: trainer.progress.code.clone(),
            data,
            steps: trainer.progress.step,
            seconds: (trainer.progress.seconds * 10.0).round() / 10.0,
            metrics: metrics.to_json(),
            terms: last_terms(&folder)?,
            config: trainer.config().to_toml()?,
        }))
    }
}

fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))
}

/// The loss terms and drift signals of the last epoch in the log.
fn last_terms(folder: &RunFolder) -> Result<BTreeMap<String, f64>> {
    let path = folder.log();
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let record: Value = match text.lines().last() {
        Some(line) => serde_json::from_str(line).with_context(|| format!("the last line of {}", path.display()))?,
        None => bail!("{} is empty", path.display()),
    };
    let terms = record["terms"].as_object().with_context(|| format!("{} has no terms", path.display()))?;
    Ok(terms.iter().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect())
}
