//! The boot's timeline as text and as a picture.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use visor_machine::{Phase, TimelineEvent};

use crate::report::Failure;

/// Width of the bars, and of the names before them, in user units.
const BARS: f64 = 640.0;
const NAMES: f64 = 190.0;
const ROW: f64 = 26.0;

/// Writes the timeline to `file` as SVG, or to standard output as text if that is `-`.
pub(super) fn write(file: &Path, events: &[TimelineEvent]) -> Result<(), Failure> {
    if file == Path::new("-") {
        events.iter().for_each(|e| println!("{}", line(e)));
        return Ok(());
    }
    std::fs::write(file, svg(events)).map_err(|e| {
        Failure::from(anyhow::Error::from(e).context(format!("cannot write the timeline {}", file.display())))
    })
}

/// One event as text: time, phase, address.
pub(super) fn line(e: &TimelineEvent) -> String {
    let mut text = format!("{:>9.3} s  {:<18}", e.at.as_secs_f64(), e.phase.to_string());
    if let Some(at) = e.address {
        let _ = write!(text, "  at {at:#x}");
    }
    text.trim_end().to_owned()
}

/// Phases by name, with the seconds since power on.
pub(super) fn named(events: &[TimelineEvent]) -> impl Iterator<Item = (&'static str, f64)> + '_ {
    events.iter().map(|e| (e.phase.name(), e.at.as_secs_f64()))
}

/// How far a boot has come, in a sentence.
pub(super) fn reached(events: &[TimelineEvent]) -> String {
    match events.last() {
        None => "the machine was not switched on".into(),
        Some(e) if e.phase == Phase::Ready => format!("the guest was ready after {:.1} s", e.at.as_secs_f64()),
        Some(e) => format!("the boot came to: {}, {:.1} s after power on", e.phase, e.at.as_secs_f64()),
    }
}

/// A bar for each phase, from its beginning to that of the next.
pub(super) fn svg(events: &[TimelineEvent]) -> String {
    let end = events.last().map_or(Duration::ZERO, |e| e.at).as_secs_f64().max(0.001) * 1.05;
    let (width, height) = (NAMES + BARS + 110.0, ROW * (events.len() as f64 + 1.0) + 20.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"18\" font-size=\"14\">boot timeline, seconds since power on</text>\n"
    );
    let ends = events.iter().skip(1).map(|e| e.at.as_secs_f64()).chain([end]);
    for (i, (e, until)) in events.iter().zip(ends).enumerate() {
        let (from, y) = (e.at.as_secs_f64(), ROW * (i as f64 + 1.0));
        let (x, w) = (NAMES + from / end * BARS, ((until - from) / end * BARS).max(1.5));
        // The last phase goes on.
        let label = match events.len() - i {
            1 => format!("from {from:.3}"),
            _ => format!("{from:.3} to {until:.3}"),
        };
        let address = e.address.map(|a| format!(" at {a:#x}")).unwrap_or_default();
        let _ = writeln!(
            out,
            "<g><title>{}{address}</title><text x=\"8\" y=\"{:.1}\">{}</text>\
             <rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{w:.1}\" height=\"16\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#333\">{label}</text></g>",
            e.phase,
            y + 17.0,
            e.phase,
            y + 5.0,
            colour(e.phase),
            x + w + 4.0,
            y + 17.0,
        );
        if let Some(at) = e.address {
            let _ = writeln!(
                out,
                "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\" font-size=\"9\" fill=\"#666\">{at:#x}</text>",
                NAMES - 4.0,
                y + 25.0
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

fn colour(phase: Phase) -> &'static str {
    match phase {
        Phase::PowerOn | Phase::Reset => "#888888",
        Phase::Post => "#4477aa",
        Phase::DeviceSearch => "#66ccee",
        Phase::BootLoader => "#228833",
        Phase::Kernel => "#ccbb44",
        Phase::Init => "#ee6677",
        Phase::Ready => "#aa3377",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines_and_bars() {
        let event = |phase, ms, address| TimelineEvent { phase, at: Duration::from_millis(ms), address };
        let events = [
            event(Phase::PowerOn, 0, Some(0xffff_fff0)),
            event(Phase::DeviceSearch, 250, None),
            event(Phase::BootLoader, 300, Some(0x7c00)),
        ];
        assert_eq!(line(&events[1]), "    0.250 s  boot device search");
        assert_eq!(line(&events[2]), "    0.300 s  boot loader         at 0x7c00");
        let picture = svg(&events);
        assert_eq!(picture.matches("<g>").count(), 3);
        assert!(picture.contains(">0.250 to 0.300<") && picture.contains(">from 0.300<"), "{picture}");
        assert!(picture.contains("0x7c00") && picture.ends_with("</svg>\n"));
        assert!(svg(&[]).contains("<svg"));
    }
}
