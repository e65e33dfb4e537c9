//! The screen and the keyboard of a machine.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::find;
use crate::report::Failure;

/// `visor screenshot`.
pub(super) fn screenshot(name: &str, file: Option<&Path>) -> Result<u8, Failure> {
    let target = find(name)?;
    let answer = target.connect().and_then(|mut c| c.call_with_payload::<Value>("screen.picture", &json!({})));
    let (about, png) = answer.map_err(|e| target.failure(e))?;
    if file == Some(Path::new("-")) {
        std::io::stdout().write_all(&png)?;
        return Ok(0);
    }
    let file = file.map_or_else(|| PathBuf::from(format!("{name}.png")), Path::to_owned);
    std::fs::write(&file, png).map_err(|e| {
        Failure::from(anyhow::Error::from(e))
            .context(format!("cannot write {}", file.display()))
            .hint("name a file in a directory that exists and is yours, or - for standard output")
    })?;
    println!("{}  {} x {}", file.display(), about["width"], about["height"]);
    Ok(0)
}

/// `visor screen`.
pub(super) fn screen(name: &str, as_json: bool) -> Result<u8, Failure> {
    let answer: Value = find(name)?.call("screen.text", &json!({}))?;
    if as_json {
        println!("{answer}");
        return Ok(0);
    }
    let Some(rows) = answer["rows"].as_array() else {
        return Err(Failure::new(format!("{name}: the screen shows a picture, no text"))
            .hint(format!("visor screenshot {name} writes it to a file")));
    };
    let rows: Vec<&str> = rows.iter().filter_map(Value::as_str).collect();
    let last = rows.iter().rposition(|r| !r.is_empty()).map_or(0, |i| i + 1);
    rows.iter().take(last).for_each(|r| println!("{r}"));
    Ok(0)
}

/// What to type.
#[derive(clap::Args, Debug)]
pub(crate) struct TypeArgs {
    /// The machine's name.
    name: String,
    /// Text to type; `\n` is Enter, `\t` Tab, `\e` Escape, `\\` a backslash.
    #[arg(allow_hyphen_values = true, required_unless_present_any = ["key", "keys"])]
    text: Option<String>,
    /// Press keys together, after the text: `enter`, `f12`, `ctrl-alt-del`.
    #[arg(long, value_name = "KEYS")]
    key: Vec<String>,
    /// Follow a script instead: `wait:TEXT` on the screen, `type:TEXT`, `press:KEYS`, `sleep:TIME`, `end`, in the order given.
    #[arg(long, value_name = "STEP", conflicts_with_all = ["text", "key"])]
    keys: Vec<String>,
    /// How long it may take.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = crate::values::parse_time)]
    timeout: Duration,
}

/// `visor type`.
pub(super) fn type_keys(args: &TypeArgs) -> Result<u8, Failure> {
    let text = args.text.iter().map(|t| format!("type:{t}"));
    let keys = args.key.iter().map(|k| format!("press:{k}"));
    let steps: Vec<String> = text.chain(keys).chain(args.keys.iter().cloned()).collect();
    let target = find(&args.name)?;
    let wish = json!({ "steps": steps, "timeout": args.timeout.as_secs_f64() });
    let patience = args.timeout.saturating_add(Duration::from_secs(30));
    let done = target.connect().and_then(|c| c.patient(patience).call::<Value>("screen.keys", &wish));
    done.map_err(|e| target.failure(e))?;
    Ok(0)
}
