//! Who may do what: every call by every kind of token, in its own project and in another one.

mod cases;
mod matrix;
mod registry;
mod world;
