//! Small guests in RAM, run by the real run loop, and direct questions to the MMU.

mod guest;
mod long;
mod paging;
mod protected;
mod real;
