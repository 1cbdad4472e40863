//! What stands around the views: bars, strip, inspector, palette, layout, messages, lessons.

pub mod arrange;
pub mod asking;
pub mod bars;
pub mod chooser;
pub mod commands;
pub mod files;
pub mod guide;
pub mod help;
pub mod helper;
pub mod inspector;
pub mod keys;
pub mod layout;
pub mod lessons;
pub mod notices;
pub mod palette;
pub mod presets;
pub mod session;
pub mod status;
pub mod strip;
pub mod talk;
pub mod topbar;
pub mod welcome;
