//! The page: a legend with the last figures of every run, and one chart for each quantity.

use std::fmt::Write as _;

use super::chart::{stroke, svg};
use super::{Curves, QUANTITIES};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem;color:#222;background:#fff}\
main{display:flex;flex-wrap:wrap;gap:1rem 2rem}figure{margin:0;max-width:460px}figcaption b{display:block}\
svg{max-width:100%;height:auto}svg text{font-size:11px;fill:#555}svg .grid{stroke:#ddd}polyline,circle,line{stroke-width:1.8}\
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.15rem .7rem;text-align:right}td:first-child,th:first-child{text-align:left}";

/// The page of `runs`, complete in itself.
pub fn html(runs: &[Curves]) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>gsacp: training curves</title>\n<style>{STYLE}</style>\n<h1>Training curves</h1>\n<table>\n<tr><th>run, at its last epoch</th>"
    );
    for quantity in &QUANTITIES {
        let _ = write!(out, "<th>{}</th>", quantity.title);
    }
    out.push_str("</tr>\n");
    for (index, run) in runs.iter().enumerate() {
        let key =
            format!("<svg width=\"28\" height=\"10\"><line x2=\"28\" y1=\"5\" y2=\"5\" {}/></svg>", stroke(index));
        let _ = write!(out, "<tr><td>{key} {}</td>", escaped(&run.name));
        for points in &run.points {
            let last = points.last().map_or("–".to_string(), |(_, value)| format!("{value:.4}"));
            let _ = write!(out, "<td>{last}</td>");
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table>\n<main>\n");
    for (at, quantity) in QUANTITIES.iter().enumerate() {
        let lines: Vec<&[(f64, f64)]> = runs.iter().map(|run| &run.points[at][..]).collect();
        let _ = write!(
            out,
            "<figure>\n<figcaption><b>{}</b>{}</figcaption>\n{}</figure>\n",
            quantity.title,
            quantity.meaning,
            svg(quantity.title, &lines)
        );
    }
    out.push_str("</main>\n</html>\n");
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str) -> Curves {
        let rising = |scale: f64| vec![(1.0, 0.1 * scale), (2.0, 0.25 * scale)];
        Curves { name: name.into(), points: [rising(1.0), rising(2.0), rising(3.0), vec![], rising(2.5)] }
    }

    #[test]
    fn the_page_stands_alone_and_names_every_run() {
        let page = html(&[run("hbc/seed-1"), run("<b>&\"")]);
        assert_eq!(page.matches("<figure>").count(), 5);
        assert_eq!(page.matches("<polyline").count(), 2 * 4);
        assert!(page.contains("hbc/seed-1</td>") && page.contains("&lt;b&gt;&amp;&quot;</td>"));
        assert!(page.contains("<td>0.2500</td><td>0.5000</td><td>0.7500</td><td>–</td><td>0.6250</td>"), "{page}");
        for outside in ["http", "<script", "url(", "@import", " src="] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
