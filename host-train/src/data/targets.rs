//! The targets of a mask: its 8-connected components, found by the labelling that host and sensor share.

use gsacp_core::detect::{Component, Labeller, Run, Slot, Workspace, runs};

use super::image::Mask;

/// The targets of `mask` in raster order of their first pixels.
pub fn of(mask: &Mask) -> Vec<Component> {
    let (mut open_runs, mut slots) =
        (vec![Run::EMPTY; Workspace::runs_for(mask.width)], vec![Slot::EMPTY; Workspace::slots_for(mask.width)]);
    let mut workspace = Workspace { runs: &mut open_runs, slots: &mut slots };
    let mut targets = Vec::new();
    // The workspace is as large as the width asks for, and every run comes from a row of that width: neither call fails.
    let Ok(mut labeller) = Labeller::new(mask.width, &mut workspace) else { return targets };
    for row in mask.pixels.chunks_exact(mask.width.max(1)) {
        for (start, end) in runs(row, |pixel| pixel != 0) {
            labeller.run(start as u32, end as u32, 1.0, 0);
        }
        labeller.end_row(|target| targets.push(*target));
    }
    let complete = labeller.finish(|target| targets.push(*target));
    debug_assert!(complete.is_ok());
    targets.sort_by_key(Component::raster_key);
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_touch_at_corners_and_come_in_raster_order() {
        let rows = ["..#....#", ".#......", "#......#", "........", "...##...", "...#....", "........", "........"];
        let pixels = rows.iter().flat_map(|row| row.bytes().map(|b| u8::from(b == b'#'))).collect();
        let found = of(&Mask { width: 8, height: 8, pixels });
        let areas: Vec<u32> = found.iter().map(|t| t.area).collect();
        assert_eq!(areas, [3, 1, 1, 3]);
        let diagonal = found[0];
        assert_eq!((diagonal.left, diagonal.top, diagonal.right, diagonal.bottom), (0, 0, 2, 2));
        assert_eq!((diagonal.first_x, diagonal.sum_x, diagonal.sum_y), (2, 3, 3));
        // Columns 3, 4, 3 of rows 4, 4, 5.
        assert_eq!((found[3].sum_x, found[3].sum_y), (10, 13));
    }
}
