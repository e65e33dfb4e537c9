//! Task management (virtio 1.2 §5.6.6.2, SAM-5 §7): ending commands, and resetting units.

use super::*;
use crate::Chain;

/// Most functions that are executed for one notification.
const MAX_ROUND: u16 = 4 * CONTROL_SIZE;

/// Kinds of control requests.
const TASK_MANAGEMENT: u32 = 0;
const QUERY_EVENTS: u32 = 1;
const SUBSCRIBE_EVENTS: u32 = 2;

/// Functions.
const ABORT_TASK: u32 = 0;
const ABORT_TASK_SET: u32 = 1;
const CLEAR_ACA: u32 = 2;
const CLEAR_TASK_SET: u32 = 3;
const NEXUS_RESET: u32 = 4;
const UNIT_RESET: u32 = 5;
const QUERY_TASK: u32 = 6;
const QUERY_TASK_SET: u32 = 7;

/// A function that is being executed. The commands that it ends hold it; when the last of them has ended, it is answered.
pub(super) struct Management {
    chain: Option<Chain>,
    response: u8,
}

impl Drop for Management {
    fn drop(&mut self) {
        if let Some(chain) = self.chain.take() {
            // Fails for a stale chain only.
            let _ = chain.writable.put(0, &[self.response]);
            chain.complete(1);
        }
    }
}

/// Executes what the driver has put into the control queue.
pub(super) fn pump(shared: &Arc<Shared>) {
    let Some(queues) = shared.queues.get() else { return };
    for _ in 0..MAX_ROUND {
        let Some(chain) = queues.next(CONTROL) else { return };
        if start(shared, chain).is_none() {
            queues.fail("SCSI control request of a wrong size");
            return;
        }
    }
}

fn start(shared: &Arc<Shared>, chain: Chain) -> Option<()> {
    let kind = u32::from_le_bytes(field(&chain.readable, 0)?);
    match kind {
        TASK_MANAGEMENT => {
            let function = u32::from_le_bytes(field(&chain.readable, 4)?);
            let lun = field::<8>(&chain.readable, 8)?;
            let id = u64::from_le_bytes(field(&chain.readable, 16)?);
            (!chain.writable.is_empty()).then_some(())?;
            manage(shared, chain, function, &lun, id);
        }
        // No such events ever happen here.
        QUERY_EVENTS | SUBSCRIBE_EVENTS => {
            let lun = field::<8>(&chain.readable, 4)?;
            (chain.writable.len() >= 5).then_some(())?;
            let known = address(&lun).and_then(|(target, _)| shared.target(target)).is_some();
            let response = if known { response::OK } else { response::BAD_TARGET };
            let _ = chain.writable.put(0, &[0, 0, 0, 0, response]);
            chain.complete(5);
        }
        _ => return None,
    }
    Some(())
}

fn manage(shared: &Arc<Shared>, chain: Chain, function: u32, lun: &[u8], id: u64) {
    let mut m = Management { chain: Some(chain), response: response::OK };
    let found = address(lun).and_then(|(target, unit)| Some((shared.target(target)?, unit)));
    let Some((target, unit)) = found else {
        m.response = response::BAD_TARGET;
        return;
    };
    if unit != 0 && function != NEXUS_RESET {
        // "Incorrect LUN".
        m.response = 12;
        return;
    }
    // Upgraded under the lock, let go outside of it: the end of a command takes it.
    let tasks: Vec<_> = lock(&target.tasks).values().filter_map(Weak::upgrade).collect();
    let concerned: Vec<_> = match function {
        ABORT_TASK | QUERY_TASK => tasks.into_iter().filter(|t| t.id == id).collect(),
        _ => tasks,
    };
    let ended = match function {
        QUERY_TASK | QUERY_TASK_SET => {
            if !concerned.is_empty() {
                m.response = response::SUCCEEDED;
            }
            return;
        }
        ABORT_TASK | ABORT_TASK_SET | CLEAR_TASK_SET => response::ABORTED,
        UNIT_RESET | NEXUS_RESET => response::RESET,
        // There is never a condition to clear, as sense data goes with its command.
        CLEAR_ACA => return,
        _ => {
            m.response = response::REJECTED;
            return;
        }
    };
    let m = Arc::new(m);
    concerned.iter().for_each(|t| t.abort(&m, ended));
    if ended == response::RESET {
        target.unit().reset();
    }
}
