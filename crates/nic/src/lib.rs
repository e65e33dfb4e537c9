//! Network devices that unmodified systems know.
//!
//! [`e1000`] is Intel's 82540EM, which Linux, the BSDs, Windows since XP and boot ROMs drive without help.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod e1000;
