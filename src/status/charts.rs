//! Bar charts out of nothing but table cells.
//!
//! Many mail programs drop SVG and images, and all of them know tables. Each bar is a cell with a coloured block at its
//! bottom, whose height is written in pixels. Where even styles are dropped, the line of numbers below still tells what the
//! bars do.

use std::fmt::Write as _;

use crate::outcome::Outcome;
use crate::status::html::escaped;

/// How high the highest bar is, in pixels.
const HEIGHT: u64 = 56;

/// One bar.
#[derive(Clone, Debug)]
pub struct Bar {
    /// How much it stands for; 0 is a stump, so that a night in which nothing came shows its colour, too.
    pub value: u64,
    /// What it says when it's pointed at.
    pub title: String,
    /// How the night went; none for no night.
    pub outcome: Option<Outcome>,
}

/// The colour of an outcome, as a hexadecimal number. All of them stand out from white and from black.
pub fn colour(outcome: Option<Outcome>) -> &'static str {
    match outcome {
        None => "#9aa0a6",
        Some(Outcome::Complete) => "#2e9e5b",
        Some(Outcome::Skipped) => "#6b7a90",
        Some(Outcome::Partial) => "#b36b00",
        Some(Outcome::Failed) => "#d33a2c",
    }
}

/// A chart with a caption above and a line of words below.
pub fn chart(caption: &str, bars: &[Bar], below: &str) -> String {
    let most = bars.iter().map(|bar| bar.value).max().unwrap_or(0).max(1);
    let mut html = format!("<div class=\"muted\" style=\"font-size:13px;margin-top:10px\">{}</div>\n", escaped(caption));
    html.push_str("<table role=\"presentation\" width=\"100%\" cellpadding=\"0\" cellspacing=\"0\" ");
    html.push_str("style=\"border-collapse:collapse;table-layout:fixed\"><tr>\n");
    for bar in bars {
        // In 128 bits: no number of bytes can overflow it.
        let height = u128::from(bar.value) * u128::from(HEIGHT) / u128::from(most);
        writeln!(
            html,
            "<td valign=\"bottom\" height=\"{HEIGHT}\" title=\"{}\" style=\"padding:0 1px;vertical-align:bottom;height:{HEIGHT}px\">\
             <div style=\"height:{}px;line-height:0;font-size:0;background:{};border-radius:2px 2px 0 0\">&nbsp;</div></td>",
            escaped(&bar.title),
            height.max(3),
            colour(bar.outcome)
        )
        .expect("writing to a string doesn't fail");
    }
    writeln!(html, "</tr></table>\n<div class=\"muted\" style=\"font-size:12px;margin-top:2px\">{}</div>", escaped(below))
        .expect("writing to a string doesn't fail");
    html
}

#[cfg(test)]
mod tests {
    use super::{Bar, chart};
    use crate::outcome::Outcome;

    #[test]
    fn bars_are_as_high_as_their_share_and_never_nothing() {
        let bar = |value| Bar { value, title: "<b>".into(), outcome: Some(Outcome::Complete) };
        let html = chart("sizes", &[bar(0), bar(u64::MAX / 2), bar(u64::MAX)], "1 to 2");
        let heights: Vec<&str> = html.split("<div style=\"height:").skip(1).filter_map(|rest| rest.split("px").next()).collect();
        assert_eq!(heights, ["3", "27", "56"]);
        assert!(html.contains("title=\"&lt;b&gt;\""));
    }
}
