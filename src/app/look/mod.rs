//! How everything looks: colours, fonts, pictures.

pub mod fonts;
pub mod picture;
pub mod svg;
pub mod theme;
