//! The model image that a command runs: given, packed from an int8 model, or the committed one.
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::repository::{gsacp, root, run, scratch};

/// The committed int8 model, from the repository's root.
pub const COMMITTED: &str = "models/quarter/model.int8.safetensors";

/// The bytes of a model image: of `path` (`.img`, or `.safetensors` to be packed), else of the committed model.
pub fn image(path: Option<&Path>) -> Result<Vec<u8>> {
    let committed = root().join(COMMITTED);
    let path = path.unwrap_or(&committed);
    if !path.is_file() {
        bail!("no model at {}: give --model FILE (.img, or .int8.safetensors)", path.display());
    }
    if path.extension().is_some_and(|e| e == "safetensors") {
        let packed = scratch("xtask")?.join("model.img");
        pack(path, &packed)?;
        return read(&packed);
    }
    read(path)
}

/// Packs an int8 model into an image.
pub fn pack(model: &Path, out: &Path) -> Result<()> {
    run(std::process::Command::new(gsacp()?).arg("pack").arg("--model").arg(model).arg("--out").arg(out))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
