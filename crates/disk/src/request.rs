//! What back ends have in common: what is asked of a request before anything is touched, and reads that are answered at once.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use visor_block::{BlockError, BlockGeometry, BlockOp, BlockRequest};

/// Longest read that is tried at once: what guests' kernels ask for when they read ahead. Copying that much takes less time than two
/// changes of threads.
const NOW: usize = 128 << 10;

thread_local! {
    /// Where reads go before the guest gets them. It is kept, since clearing one costs as much as the read itself.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Where the request starts on the disk in bytes, if it is one that can be carried out.
pub(crate) fn check(request: &BlockRequest, geometry: &BlockGeometry) -> Result<u64, BlockError> {
    request.check(geometry)
}

/// Carries out a read on the calling thread if `read` can fill its data without waiting: for a guest that waits for each read, two
/// changes of threads cost more than the read. What cannot be done so comes back.
pub(crate) fn read_now(
    mut request: BlockRequest,
    geometry: &BlockGeometry,
    read: impl FnOnce(u64, &mut [u8]) -> bool,
) -> Option<BlockRequest> {
    let len = request.buffer.len();
    if request.op != BlockOp::Read || len == 0 || len > NOW {
        return Some(request);
    }
    let Ok(at) = check(&request, geometry) else { return Some(request) };
    let mut scratch = SCRATCH.take();
    if scratch.len() < len {
        scratch.resize(len, 0);
    }
    let result = read(at, &mut scratch[..len]).then(|| request.buffer.put(0, &scratch[..len]));
    // Before the completion, which may submit the next request.
    SCRATCH.set(scratch);
    let Some(result) = result else { return Some(request) };
    // As on a thread of the disk's own: the submitter has nothing to do with a completion that panics.
    if catch_unwind(AssertUnwindSafe(|| request.complete(result))).is_err() {
        tracing::error!("the completion of a block request panicked");
    }
    None
}
