//! Prints made-up specs with what this crate makes of them, one JSON document a line, so that other
//! languages can be held against it:
//!
//! ```text
//! {"seed": "…"}
//! {"spec": "{…}", "canonical": "{…}", "recipe_hash": "…", "image_hash": null, "keys": ["…"]}
//! {"spec": "{…}", "refused": "line 1, …"}
//! ```
//!
//! The first argument is how many sound specs to print, 10,000 unless given; some are refused on the
//! way. The second is the seed, any text; the same seed gives the same specs.

use std::io::{self, BufWriter, Write};

use chalk_core::{Digest, Spec};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

mod spelling;
mod text;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let wanted: usize = arguments.next().as_deref().unwrap_or("10000").parse()?;
    let seed = arguments.next().unwrap_or_else(|| "chalk".to_owned());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, Digest::of(seed.as_bytes()).as_bytes());
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut out = BufWriter::new(io::stdout().lock());
    writeln!(out, "{}", json!({ "seed": seed }))?;
    let specs = spelling::spec();
    let mut sound = 0;
    while sound < wanted {
        let spelled = specs
            .new_tree(&mut runner)
            .map_err(|reason| reason.to_string())?
            .current();
        let (line, is_sound) = judge(&spelled);
        writeln!(out, "{line}")?;
        sound += usize::from(is_sound);
    }
    Ok(out.flush()?)
}

/// What becomes of a text, and whether it is a sound spec.
fn judge(text: &str) -> (Value, bool) {
    let spec = match Spec::from_json(text) {
        Ok(spec) => spec,
        Err(error) => return (json!({ "spec": text, "refused": error.to_string() }), false),
    };
    let keys: Vec<_> = spec
        .steps_with_keys()
        .iter()
        .map(|step| step.key.to_string())
        .collect();
    let line = json!({
        "spec": text,
        "canonical": spec.canonical().canonical(),
        "recipe_hash": spec.recipe_hash().to_string(),
        "image_hash": spec.image_hash().map(|hash| hash.to_string()),
        "keys": keys,
    });
    (line, true)
}
