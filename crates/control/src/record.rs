//! What a machine's process tells of itself in `machine.json`: enough to list it although it does not answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A machine as its process describes it when it starts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// When it was started: seconds since 1970, UTC.
    pub started: u64,
    /// The version of visor that runs it.
    pub visor: String,
    /// What it boots, in a person's words: an image's name, or `kernel`, `disk`, `iso` with a file's name.
    pub image: String,
    /// RAM in bytes.
    pub memory: u64,
    /// vCPUs.
    pub cpus: u32,
    /// It runs in the background.
    #[serde(default)]
    pub detached: bool,
    /// Whatever else is worth knowing; a later version may know more than this one.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}
