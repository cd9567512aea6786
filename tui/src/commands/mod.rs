//! What each word of the command does.

pub(crate) mod agent;
pub(crate) mod audit;
pub(crate) mod build;
mod caches;
pub(crate) mod compare;
pub(crate) mod config;
pub(crate) mod declare;
pub(crate) mod doctor;
pub(crate) mod gc;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod logs;
pub(crate) mod man_pages;
pub(crate) mod nodes;
mod prewarm;
pub(crate) mod projects;
pub(crate) mod sandbox;
pub(crate) mod serve;
mod subject;
pub(crate) mod tokens;
pub(crate) mod upload;
pub(crate) mod verify;
pub(crate) mod warm;
pub(crate) mod warms;
pub(crate) mod web;
