//! `gsacp mine` and training on what it finds, as a user runs them, on synthetic scenes.

use std::path::Path;
use std::process::{Command, Output};

use gsacp_train::data::points;

fn gsacp(folder: &Path, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gsacp"));
    command.args(arguments.split(' ')).current_dir(folder).env_remove("RUST_BACKTRACE").output().unwrap()
}

fn told(folder: &Path, arguments: &str) -> String {
    let output = gsacp(folder, arguments);
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(folder: &Path, arguments: &str) -> String {
    let output = gsacp(folder, arguments);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && !message.contains("panicked"), "{arguments}: {message}");
    message
}

#[test]
fn what_a_model_takes_for_targets_is_mined_and_trained_on() {
    let workshop = tempfile::tempdir().unwrap();
    let folder = workshop.path();
    told(folder, "data synth --out scenes --count 10 --size 64x64");
    let train = "train --data scenes --set schedule.batch=4 --set schedule.epochs=1 --set data.crop=32";
    told(folder, &format!("{train} --out first"));

    // A network of one epoch is nowhere sure that there is no target: above −30 it fires everywhere, in one blob with every
    // target inside; nowhere above 30.
    let mine = "mine --model first/model.safetensors --data scenes --points scenes/points.json";
    assert!(told(folder, &format!("{mine} --logit -30 --out all.json")).starts_with("0 places in 0 of 8 images"));
    assert!(told(folder, &format!("{mine} --logit 30 --out none.json")).starts_with("0 places"));
    // No prior covers 10,000 pixels, and every one covers its point's.
    assert!(told(folder, &format!("{mine} --logit 30 --large 10000 --out none.json")).starts_with("0 places"));
    told(folder, &format!("{mine} --logit 30 --large 1 --out every.json"));
    let (every, listed) =
        (points::read(&folder.join("every.json")).unwrap(), points::read(&folder.join("scenes/points.json")).unwrap());
    assert!(
        !every.is_empty() && every.iter().all(|(name, places)| places.iter().all(|place| listed[name].contains(place)))
    );
    assert!(refused(folder, "mine --model none.safetensors --data scenes --out x.json").contains("none.safetensors"));

    // Sixty places by hand are as good as mined ones.
    let labels = points::read(&folder.join("scenes/points.json")).unwrap();
    let listed = std::fs::read_to_string(folder.join("scenes/img_idx/train.txt")).unwrap();
    let name = listed.lines().next().unwrap();
    assert!(labels.contains_key(name));
    std::fs::write(folder.join("clutter.json"), format!("{{\"{name}\": [[40, 8], [5, 60]]}}")).unwrap();
    let with = format!("{train} --set data.clutter_share=0.5 --out second");
    assert!(refused(folder, &with).contains("gsacp mine"));
    assert!(refused(folder, &format!("{train} --clutter clutter.json --out second")).contains("clutter_share"));
    assert!(refused(folder, &format!("{with} --clutter none.json")).contains("no clutter"));
    assert!(!folder.join("second/last.safetensors").exists());
    told(folder, &format!("{with} --clutter clutter.json"));

    // Other clutter is other data: a run does not go on with it.
    std::fs::write(folder.join("clutter.json"), format!("{{\"{name}\": [[40, 8]]}}")).unwrap();
    let error = refused(folder, &format!("{with} --clutter clutter.json --resume"));
    assert!(error.contains("the data has changed"), "{error}");
}
