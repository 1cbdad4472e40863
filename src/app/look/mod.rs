//! How everything looks: colours, fonts, pictures.

pub mod fonts;
pub mod icon;
pub mod picture;
pub mod svg;
pub mod theme;
