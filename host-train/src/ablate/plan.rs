//! `PLAN.toml`: a base configuration, seeds, data, and variants that each change one key.
//!
//! ```toml
//! config = "gsacp-base.toml"           # beside the plan; without it every default
//! set = ["schedule.epochs=6"]          # the budget: changes that all runs share
//! seeds = [1, 2]
//! list = "train_dev"
//! val_list = "val_dev"
//!
//! [[variant]]
//! name = "no-hbc"
//! parent = "base"                      # or the name of another variant
//! set = "supervision.gsacp.lambda_hbc=0"
//! ```
//!
//! A variant that changes no key, two keys or the seed, an unknown key, a parent that is missing, parents in a circle and
//! a name that is given twice are errors, found before anything is read or trained. Setting `schedule.steps` where the
//! parent has `schedule.epochs` changes two keys.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::data::points::Kind;
use crate::train::config::RunConfig;

/// The name of the run that is the base configuration itself.
pub const BASE: &str = "base";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    config: Option<PathBuf>,
    #[serde(default)]
    set: Vec<String>,
    seeds: Vec<u64>,
    data: Option<PathBuf>,
    list: PathBuf,
    val_list: PathBuf,
    points: Option<PathBuf>,
    point_kind: Option<Kind>,
    clutter: Option<PathBuf>,
    init: Option<PathBuf>,
    #[serde(default)]
    variant: Vec<Line>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    parent: String,
    set: Changes,
}

/// One change, or a list, so that a plan with two is told what is wrong with it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Changes {
    One(String),
    Several(Vec<String>),
}

impl Changes {
    fn items(&self) -> &[String] {
        match self {
            Changes::One(item) => std::slice::from_ref(item),
            Changes::Several(items) => items,
        }
    }
}

/// A plan whose variants are all resolved.
#[derive(Debug)]
pub struct Plan {
    /// Seeds; every variant runs with each.
    pub seeds: Vec<u64>,
    /// The data-set folder, where the plan names one.
    pub data: Option<PathBuf>,
    /// List of training images.
    pub list: PathBuf,
    /// List of validation images.
    pub val_list: PathBuf,
    /// Points file; without one the points are made from the masks.
    pub points: Option<PathBuf>,
    /// How points are made from the masks.
    pub point_kind: Kind,
    /// File of clutter, from `gsacp mine`.
    pub clutter: Option<PathBuf>,
    /// Model whose weights every run starts from.
    pub init: Option<PathBuf>,
    /// The base, then the variants in the plan's order.
    pub variants: Vec<Variant>,
}

/// The base or a variant.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Its name, which is also its folder's.
    pub name: String,
    /// What it is compared with; the base has none.
    pub parent: Option<String>,
    /// The key that it changes against its parent, with both values; the base has none.
    pub difference: Option<String>,
    /// Its configuration, but for the seed.
    pub config: RunConfig,
}

/// One run of a plan.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// What is run.
    pub variant: &'a Variant,
    /// Its seed.
    pub seed: u64,
}

impl Run<'_> {
    /// The configuration with the seed.
    pub fn config(&self) -> RunConfig {
        RunConfig { seed: self.seed, ..self.variant.config.clone() }
    }

    /// `name:seed`, as `--run` takes it.
    pub fn label(&self) -> String {
        format!("{}:{}", self.variant.name, self.seed)
    }

    /// The run folder below `out`.
    pub fn folder(&self, out: &Path) -> PathBuf {
        out.join(&self.variant.name).join(format!("seed-{}", self.seed))
    }
}

impl Plan {
    /// Reads and checks a plan; paths in it are relative to its folder, lists excepted.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the plan {}", path.display()))?;
        let home = path.parent().unwrap_or(Path::new(""));
        Self::resolve(&text, home).with_context(|| format!("{} is no plan that can be run", path.display()))
    }

    fn resolve(text: &str, home: &Path) -> Result<Self> {
        let file: File = toml::from_str(text)?;
        ensure!(!file.seeds.is_empty(), "seeds is empty: give at least one, and two for any claim");
        let mut known = HashSet::new();
        for seed in &file.seeds {
            ensure!(known.insert(seed), "seeds holds {seed} twice");
        }
        ensure!(file.points.is_none() || file.point_kind.is_none(), "points and point_kind exclude each other");
        let beside = |path: &PathBuf| home.join(path);
        let config = file.config.as_ref().map(beside);
        let mut parents: HashMap<&str, &Line> = HashMap::new();
        for line in &file.variant {
            check_name(&line.name)?;
            ensure!(line.name != BASE, "a variant is named {BASE}, which is the base configuration's own name");
            ensure!(parents.insert(&line.name, line).is_none(), "two variants are named {}", line.name);
        }
        let load = |changes: &[String]| RunConfig::load(config.as_deref(), &[&file.set[..], changes].concat());
        let base = load(&[]).context("the base")?;
        let mut variants = vec![Variant { name: BASE.into(), parent: None, difference: None, config: base.clone() }];
        for line in &file.variant {
            let of = || format!("variant {}", line.name);
            let inherited = lineage(&line.parent, &parents).with_context(of)?;
            let parent = load(&inherited).with_context(|| format!("variant {}", line.parent))?;
            let own = load(&[&inherited[..], line.set.items()].concat()).with_context(of)?;
            let mut changed = parent.differences(&own)?;
            let against = &line.parent;
            ensure!(!changed.is_empty(), "variant {} changes nothing against {against}", line.name);
            ensure!(
                changed.len() == 1,
                "variant {} changes {} keys against {against}: {}; a variant changes exactly one, so put another variant between them",
                line.name,
                changed.len(),
                changed.join(", ")
            );
            let difference = changed.remove(0);
            ensure!(!difference.starts_with("seed "), "variant {} changes the seed: write it into seeds", line.name);
            variants.push(Variant {
                name: line.name.clone(),
                parent: Some(against.clone()),
                difference: Some(difference),
                config: own,
            });
        }
        let needy = variants.iter().find_map(|variant| Some((&variant.name, variant.config.needs_model()?)));
        if let (Some((name, reason)), None) = (needy, &file.init) {
            bail!("variant {name}: {reason}: give init");
        }
        Ok(Self {
            seeds: file.seeds,
            data: file.data.as_ref().map(beside),
            list: file.list,
            val_list: file.val_list,
            points: file.points.as_ref().map(beside),
            point_kind: file.point_kind.unwrap_or(Kind::Centroid),
            clutter: file.clutter.as_ref().map(beside),
            init: file.init.as_ref().map(beside),
            variants,
        })
    }

    /// Every run: all variants with the first seed, then with the next, so that a stopped plan compares what it has.
    pub fn runs(&self) -> Vec<Run<'_>> {
        let of = |&seed: &u64| self.variants.iter().map(move |variant| Run { variant, seed });
        self.seeds.iter().flat_map(of).collect()
    }
}

/// A name is a folder's name on every system.
fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    ensure!(
        !name.is_empty() && name.len() <= 64 && name.chars().all(plain) && !name.starts_with(['.', '-']),
        "a variant is named {name:?}: use up to 64 letters, digits, -, _ and ."
    );
    Ok(())
}

/// The changes of `name` and everything above it, from the base downwards.
fn lineage(name: &str, variants: &HashMap<&str, &Line>) -> Result<Vec<String>> {
    let (mut chain, mut seen, mut here) = (Vec::new(), HashSet::new(), name);
    while here != BASE {
        let line = variants.get(here).with_context(|| {
            format!("its parent {here} is no variant of this plan: write {BASE} or a variant's name")
        })?;
        ensure!(seen.insert(here), "its parents go in a circle through {here}: one of them must descend from {BASE}");
        chain.push(line.set.items());
        here = &line.parent;
    }
    Ok(chain.into_iter().rev().flatten().cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "seeds = [3, 5]\nlist = \"train\"\nval_list = \"val\"\nset = [\"schedule.epochs=6\"]\n";

    fn plan(variants: &str) -> Result<Plan> {
        Plan::resolve(&format!("{HEAD}{variants}"), Path::new("home"))
    }

    fn variant(name: &str, parent: &str, set: &str) -> String {
        format!("[[variant]]\nname = \"{name}\"\nparent = \"{parent}\"\nset = {set}\n")
    }

    fn refusal(variants: &str) -> String {
        format!("{:#}", plan(variants).unwrap_err())
    }

    const HBC: &str = "\"supervision.gsacp.lambda_hbc=0\"";

    #[test]
    fn a_variant_is_its_parent_and_one_key() {
        // The grandchild stands before its parent: the order of lines does not matter.
        let text = variant("wide", "bare", "\"data.crop=256\"") + &variant("bare", BASE, HBC);
        let plan = plan(&text).unwrap();
        let names: Vec<_> = plan.variants.iter().map(|variant| variant.name.as_str()).collect();
        assert_eq!(names, [BASE, "wide", "bare"]);
        let wide = &plan.variants[1];
        assert_eq!(wide.difference.as_deref(), Some("data.crop (128 → 256)"));
        assert_eq!((wide.config.data.crop, wide.config.supervision.gsacp.lambda_hbc), (256, 0.0));
        assert!(plan.variants.iter().all(|variant| variant.config.schedule.epochs == Some(6)));
        let runs: Vec<_> = plan.runs().iter().map(Run::label).collect();
        assert_eq!(runs, ["base:3", "wide:3", "bare:3", "base:5", "wide:5", "bare:5"]);
        assert_eq!(plan.runs()[3].config().seed, 5);
        assert_eq!(plan.runs()[4].folder(Path::new("o")), Path::new("o/wide/seed-5"));
    }

    #[test]
    fn a_variant_that_does_not_change_exactly_one_key_is_refused() {
        let two = refusal(&variant("x", BASE, "[\"data.crop=64\", \"ema.decay=0.9\"]"));
        assert!(two.contains("x changes 2 keys") && two.contains("data.crop (128 → 64), ema.decay"), "{two}");
        assert!(refusal(&variant("x", BASE, "\"schedule.steps=9\"")).contains("changes 2 keys"));
        assert!(refusal(&variant("x", BASE, "\"data.crop=128\"")).contains("x changes nothing against base"));
        assert!(refusal(&variant("x", BASE, "\"seed=9\"")).contains("write it into seeds"));
    }

    #[test]
    fn unknown_keys_impossible_values_and_unknown_parents_are_named() {
        let unknown = refusal(&variant("x", BASE, "\"data.corp=64\""));
        assert!(unknown.contains("variant x") && unknown.contains("corp"), "{unknown}");
        assert!(refusal(&variant("x", BASE, "\"data.crop=65\"")).contains("crop = 65"));
        assert!(refusal(&variant("x", "y", HBC)).contains("parent y is no variant"));
        assert!(refusal(&(variant("a", "b", HBC) + &variant("b", "a", "\"data.crop=64\""))).contains("circle"));
        assert!(refusal(&variant("x", "x", HBC)).contains("circle"));
        assert!(refusal(&(variant("x", BASE, HBC) + &variant("x", BASE, "\"data.crop=64\""))).contains("two variants"));
        assert!(refusal(&variant(BASE, BASE, HBC)).contains("base configuration's own name"));
        assert!(refusal(&variant("../x", BASE, HBC)).contains("../x"));
        assert!(refusal("epochs = 4\n").contains("epochs"));
        for (key, value) in
            [("quantisation.aware", "true"), ("model.frozen_norms", "true"), ("model.learning", "gates")]
        {
            let error = refusal(&variant("x", BASE, &format!("\"{key}={value}\"")));
            assert!(error.contains("variant x") && error.contains(key) && error.contains("give init"), "{error}");
        }
        let seeds = |seeds: &str| Plan::resolve(&HEAD.replace("[3, 5]", seeds), Path::new("")).unwrap_err().to_string();
        assert!(seeds("[1, 1]").contains("1 twice") && seeds("[]").contains("at least one"));
    }

    #[test]
    fn every_committed_plan_resolves() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/plans");
        let plans: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!plans.is_empty());
        for path in plans {
            assert!(Plan::read(&path).unwrap().seeds.len() >= 2, "{}: a claim needs two seeds", path.display());
        }
    }

    #[test]
    fn paths_are_beside_the_plan() {
        let plan = plan("data = \"d\"\ninit = \"../m\"\n").unwrap();
        assert_eq!((plan.data.unwrap(), plan.init.unwrap()), (PathBuf::from("home/d"), PathBuf::from("home/../m")));
        assert_eq!(plan.list, Path::new("train"));
    }
}
