//! The image builder.
pub mod payload;
