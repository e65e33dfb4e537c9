//! What every back end asks of a request before it touches anything.

use visor_block::{BlockError, BlockErrorKind, BlockGeometry, BlockOp, BlockRequest, SECTOR};

/// Where the request starts on the disk in bytes, if it is one that can be carried out.
pub(crate) fn check(request: &BlockRequest, geometry: &BlockGeometry) -> Result<u64, BlockError> {
    let fail = |kind, why: &str| Err(BlockError::new(kind, format!("{request:?}: {why}")));
    if request.op == BlockOp::Flush {
        return Ok(0);
    }
    if request.op != BlockOp::Read && geometry.read_only {
        return fail(BlockErrorKind::ReadOnly, "the disk is read-only");
    }
    let end = request.sector.0.checked_add(request.len / SECTOR);
    if !request.len.is_multiple_of(SECTOR) || end.is_none_or(|end| end > geometry.sectors) {
        return fail(BlockErrorKind::OutOfRange, "outside the disk");
    }
    let has_data = matches!(request.op, BlockOp::Read | BlockOp::Write);
    if has_data && request.buffer.len() as u64 != request.len {
        return fail(BlockErrorKind::BadBuffer, "the buffer has another length");
    }
    Ok(request.sector.0 * SECTOR)
}
