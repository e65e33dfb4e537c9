//! What every back end asks of a request before it touches anything.

use visor_block::{BlockError, BlockGeometry, BlockRequest};

/// Where the request starts on the disk in bytes, if it is one that can be carried out.
pub(crate) fn check(request: &BlockRequest, geometry: &BlockGeometry) -> Result<u64, BlockError> {
    request.check(geometry)
}
