//! The main table of the GSACP paper (METHOD §4), to stand beside one's own rows: SIRST3, 1,079 test images.

/// First lines of the table that [`row`] goes on with.
pub const HEAD: &str = "| model | mIoU | nIoU | Pd | Fa ×10⁻⁶ |\n|---|---|---|---|---|\n";

/// Method and its mIoU, nIoU, Pd and Fa (×10⁻⁶).
pub const ROWS: [(&str, [Option<f64>; 4]); 7] = [
    ("MCLC (paper)", [Some(0.5600), Some(0.6209), Some(0.9090), Some(93.61)]),
    ("LESPS (paper)", [Some(0.5357), Some(0.5034), Some(0.9243), Some(29.05)]),
    ("PAL (paper)", [Some(0.6933), Some(0.7153), Some(0.9754), Some(24.75)]),
    ("PAL (its repository)", [Some(0.6938), Some(0.7155), Some(0.9741), Some(16.34)]),
    ("GSACP-Base (paper)", [Some(0.6598), None, Some(0.9728), Some(13.11)]),
    ("GSACP-Final (paper)", [Some(0.6674), Some(0.6826), Some(0.9681), Some(15.33)]),
    ("MSDA, full masks (paper)", [Some(0.8346), Some(0.8597), Some(0.9741), Some(17.15)]),
];

/// A line of the table; a rate that is undefined or unknown is a dash.
pub fn row(name: &str, [miou, niou, pd, fa]: [Option<f64>; 4]) -> String {
    let cell = |rate: Option<f64>, digits: usize| rate.map_or("–".into(), |v| format!("{v:.digits$}"));
    format!("| {name} | {} | {} | {} | {} |\n", cell(miou, 4), cell(niou, 4), cell(pd, 4), cell(fa, 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_rate_is_a_dash() {
        let (name, rates) = ROWS[4];
        assert_eq!(row(name, rates), "| GSACP-Base (paper) | 0.6598 | – | 0.9728 | 13.11 |\n");
    }
}
