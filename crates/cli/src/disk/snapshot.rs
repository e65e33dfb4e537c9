//! `visor disk snapshot`.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use visor_disk::Access;

use super::args::{SnapshotArgs, SnapshotCommand, Which};
use super::live;
use super::names::find;
use super::work::{Work, human, image_failure, open_qcow2};
use crate::report::Failure;

const NEEDS: &str = "has no snapshots";

pub(super) fn main(command: &SnapshotCommand, quiet: bool) -> Result<u8, Failure> {
    match command {
        SnapshotCommand::Ls(which) => list(which),
        SnapshotCommand::Create(args) => create(args, quiet),
        SnapshotCommand::Revert(args) => change(args, quiet, "restored", |image, name| image.revert_snapshot(name)),
        SnapshotCommand::Rm(args) => change(args, quiet, "removed", |image, name| image.delete_snapshot(name)),
    }
}

/// Of a disk that is in use, its machine makes the snapshot: what the guest has not written yet is not in it.
fn create(args: &SnapshotArgs, quiet: bool) -> Result<u8, Failure> {
    let path = find(&args.disk)?;
    if let Some((target, name, _)) = live::user_of(&path) {
        live::snapshot(&target, &name, &args.snapshot)?;
        tell(&path, args, "created", quiet);
        return Ok(0);
    }
    change(args, quiet, "created", |image, name| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as u32);
        image.create_snapshot(name, now)
    })
}

fn change(
    args: &SnapshotArgs,
    quiet: bool,
    done: &str,
    f: impl FnOnce(&visor_qcow2::Image, &str) -> visor_qcow2::Result<()>,
) -> Result<u8, Failure> {
    let path = find(&args.disk)?;
    let image = open_qcow2(&path, Access::ReadWrite, None, NEEDS)?;
    // From here on ctrl-C does not end the process: in the middle there are clusters that belong to nobody yet.
    let _work = Work::new(quiet)?;
    f(&image, &args.snapshot).and_then(|()| image.flush()).map_err(image_failure(&path))?;
    tell(&path, args, done, quiet);
    Ok(0)
}

fn tell(path: &Path, args: &SnapshotArgs, done: &str, quiet: bool) {
    if args.json {
        println!("{}", json!({ "disk": path, "snapshot": args.snapshot, "result": done }));
    } else if !quiet {
        println!("{}: snapshot `{}` {done}", path.display(), args.snapshot);
    }
}

fn list(which: &Which) -> Result<u8, Failure> {
    let path = find(&which.disk)?;
    let image = open_qcow2(&path, Access::ReadOnly, which.format, NEEDS)?;
    let list = image.snapshots();
    if which.json {
        let list: Vec<_> = list
            .iter()
            .map(|s| {
                json!({ "id": s.id, "name": s.name, "time": s.seconds, "disk_size": s.disk_size, "state_size": s.vm_state_size })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(0);
    }
    println!("{:<4} {:<24} {:<20} {:>10} {:>10}", "ID", "NAME", "MADE (UTC)", "DISK", "STATE");
    for s in &list {
        println!(
            "{:<4} {:<24} {:<20} {:>10} {:>10}",
            s.id,
            s.name,
            date(u64::from(s.seconds)),
            human(s.disk_size),
            human(s.vm_state_size)
        );
    }
    Ok(0)
}

/// Seconds since 1970 as a date of the proleptic Gregorian calendar.
fn date(seconds: u64) -> String {
    let (days, rest) = ((seconds / 86400) as i64, seconds % 86400);
    // Days are counted from 1 March of year 0, so that a leap day ends its year.
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01 00:00:00");
        assert_eq!(date(951_826_154), "2000-02-29 12:09:14");
        assert_eq!(date(1_700_000_000), "2023-11-14 22:13:20");
    }
}
