//! What each word of the command does.

pub(crate) mod build;
pub(crate) mod compare;
pub(crate) mod config;
pub(crate) mod declare;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod logs;
pub(crate) mod serve;
pub(crate) mod web;
