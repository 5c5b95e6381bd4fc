//! Promise: the committed models keep what the README says of them, on real images that they were not trained on, and
//! int8 loses little against float.

use std::process::Command;

use serde_json::Value;
use xtask::repository::{gsacp, output, real_images, root};

/// False-alarm rate that the README's figures are calibrated for.
const FA: &str = "4.5e-5";

/// mIoU, nIoU, Pd and Fa of a committed model on `val_dev`, at its own calibrated threshold.
fn rates(data: &std::path::Path, model: &str) -> [f64; 4] {
    let mut command = Command::new(gsacp().unwrap());
    command.arg("eval").arg("--model").arg(root().join("models/quarter").join(model));
    command.arg("--data").arg(data).args(["--list", "val_dev", "--fa", FA, "--json"]);
    let record: Value = serde_json::from_str(&output(&mut command).unwrap()).unwrap();
    ["miou", "niou", "pd", "fa"].map(|key| record["overall"][key].as_f64().unwrap())
}

#[test]
fn the_committed_quarter_models_keep_their_figures() {
    let Some(data) = gsacp_tests::or_say_skipped(real_images().unwrap(), "real images") else { return };
    let [float, int8] = ["model.safetensors", "model.int8.safetensors"].map(|model| rates(&data, model));
    println!("float mIoU, nIoU, Pd, Fa: {float:?}\nint8: {int8:?}");
    for [miou, niou, pd, fa] in [float, int8] {
        assert!(miou >= 0.55 && niou >= 0.60 && pd >= 0.94 && fa <= 40e-6, "{miou} {niou} {pd} {fa}");
    }
    assert!(int8[0] >= float[0] - 0.005 && int8[2] >= float[2] - 0.003, "float {float:?}, int8 {int8:?}");
}
