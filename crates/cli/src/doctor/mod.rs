//! `visor doctor`: what this host can do, measured, and what visor will use and why.

mod host;
mod speed;

use std::fmt::Write as _;

use serde::Serialize;

use crate::report::Failure;

#[derive(clap::Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Print the findings as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a finding bears on the use of visor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// Works.
    Ok,
    /// Works less well than it could; `fix` says what to do, if anything.
    Warn,
    /// Good to know.
    Info,
    /// Keeps visor from its main job.
    Bad,
}

/// One line of the report.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    area: &'static str,
    verdict: Verdict,
    name: String,
    detail: String,
    /// What to do about it, in words.
    fix: Option<String>,
}

impl Finding {
    fn new(area: &'static str, verdict: Verdict, name: impl Into<String>, detail: impl Into<String>) -> Self {
        Finding { area, verdict, name: name.into(), detail: detail.into(), fix: None }
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// Everything found out.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    host: String,
    /// `soft`, `kvm`, or `none` if no engine works here.
    engine: &'static str,
    /// Why that one.
    because: String,
    findings: Vec<Finding>,
}

/// Runs the checks and prints them; the status is 1 if visor cannot do its main job here.
pub(crate) fn main(args: &DoctorArgs) -> Result<u8, Failure> {
    let (mut findings, choice) = speed::engines();
    findings.extend(host::findings());
    let (engine, because) = match choice {
        Ok(chosen) => (chosen.engine.caps().name, chosen.reason),
        Err(why) => ("none", why),
    };
    let report = Report { version: env!("CARGO_PKG_VERSION"), host: host::summary(), engine, because, findings };
    let bad = report.findings.iter().any(|f| f.verdict == Verdict::Bad);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", render(&report));
    }
    Ok(u8::from(bad))
}

fn render(report: &Report) -> String {
    let mut out = format!("visor {}  {}\n", report.version, report.host);
    let mut area = "";
    for f in &report.findings {
        if f.area != area {
            area = f.area;
            let _ = write!(out, "\n  {area}\n");
        }
        let verdict = match f.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Info => "info",
            Verdict::Bad => "BAD",
        };
        let _ = writeln!(out, "   {verdict:<5} {:<22} {}", f.name, f.detail);
        if let Some(fix) = &f.fix {
            let _ = writeln!(out, "         -> {fix}");
        }
    }
    let _ = write!(out, "\nvisor will use: {} - {}\n", report.engine, report.because);
    if report.findings.iter().any(|f| f.verdict == Verdict::Bad) {
        out.push_str("Not ready: mend what is marked BAD first.\n");
    } else {
        out.push_str("Ready. Try:  visor run tiny\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_the_engine_the_reason_and_the_fixes() {
        let report = Report {
            version: "1",
            host: "Linux".into(),
            engine: "soft",
            because: "no KVM".into(),
            findings: vec![
                Finding::new("Engine", Verdict::Ok, "soft", "200 MIPS"),
                Finding::new("Engine", Verdict::Warn, "/dev/kvm", "absent").fix("nothing to do"),
            ],
        };
        let text = render(&report);
        assert!(text.contains("   ok    soft                   200 MIPS\n"), "{text}");
        assert!(
            text.contains("         -> nothing to do\n") && text.contains("visor will use: soft - no KVM"),
            "{text}"
        );
    }
}
