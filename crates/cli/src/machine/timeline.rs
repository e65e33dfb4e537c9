//! `visor timeline`: how a boot went, or how far it has come.

use std::path::Path;

use serde_json::{Value, json};

use super::find;
use crate::report::Failure;

/// Prints it, or draws it into a file.
pub(super) fn timeline(name: &str, svg: Option<&Path>, as_json: bool) -> Result<u8, Failure> {
    let answer: Value = find(name)?.call("info.timeline", &json!({ "svg": svg.is_some() }))?;
    if let Some(file) = svg {
        let picture = answer["svg"].as_str().unwrap_or_default();
        std::fs::write(file, picture).map_err(|e| {
            Failure::from(anyhow::Error::from(e))
                .context(format!("cannot write {}", file.display()))
                .hint("name a file in a directory that exists and is yours")
        })?;
        println!("{}", file.display());
        return Ok(0);
    }
    if as_json {
        println!("{}", serde_json::to_string_pretty(&answer["events"])?);
        return Ok(0);
    }
    let lines = answer["lines"].as_array().into_iter().flatten();
    lines.filter_map(Value::as_str).for_each(|l| println!("{l}"));
    Ok(0)
}
