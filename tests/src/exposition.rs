//! Metrics as Prometheus reads them (text format 0.0.4), read without any code of the project.

use std::collections::BTreeMap;

/// Metrics by the name of their family.
#[derive(Debug)]
pub struct Exposition {
    /// The families.
    pub families: BTreeMap<String, Family>,
}

/// All samples of one metric.
#[derive(Debug, Default)]
pub struct Family {
    /// What it is, for people.
    pub help: String,
    /// `counter`, `gauge`, `histogram`.
    pub kind: String,
    /// The numbers.
    pub samples: Vec<Sample>,
}

/// One number.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Name, of a histogram with what it counts.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The number.
    pub value: f64,
}

impl Exposition {
    /// Reads a text; panics where it is not as the format wants it, or says less than people need.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help text");
                let family = families.entry(name.to_owned()).or_default();
                assert!(family.help.is_empty(), "two helps: {line}");
                help.clone_into(&mut family.help);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                let family = families.get_mut(name).expect("help before type");
                assert!(family.kind.is_empty(), "two types: {line}");
                kind.clone_into(&mut family.kind);
            } else {
                assert!(!line.starts_with('#'), "no comment is known: {line}");
                let sample = Sample::parse(line);
                let name = sample.family(&families);
                let family = families.get_mut(&name).expect(line);
                assert!(!family.kind.is_empty(), "no type: {line}");
                family.samples.push(sample);
            }
        }
        for (name, family) in &families {
            assert!(family.help.len() > 10, "{name} says nothing: {family:?}");
            if family.kind == "histogram" {
                family.check_buckets(name);
            }
        }
        Self { families }
    }

    /// Names of all samples.
    pub fn names(&self) -> Vec<&str> {
        let samples = self.families.values().flat_map(|family| &family.samples);
        samples.map(|sample| sample.name.as_str()).collect()
    }

    /// Sum of the samples of a name that have those labels.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let samples = self.families.values().flat_map(|family| &family.samples);
        let fits = |sample: &&Sample| {
            let has = |(label, value): &(&str, &str)| {
                sample
                    .labels
                    .get(*label)
                    .is_some_and(|found| found == value)
            };
            sample.name == name && labels.iter().all(has)
        };
        let found: Vec<f64> = samples.filter(fits).map(|sample| sample.value).collect();
        assert!(!found.is_empty(), "there is no {name} {labels:?}");
        found.iter().sum()
    }
}

impl Family {
    /// Each bucket counts what those before it count, and the last one all.
    fn check_buckets(&self, name: &str) {
        let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
        let mut counts = BTreeMap::new();
        for sample in &self.samples {
            let mut labels = sample.labels.clone();
            let bound = labels.remove("le");
            if sample.name.ends_with("_bucket") {
                let bound = bound.expect("a bound").parse().expect("a number");
                series
                    .entry(labels)
                    .or_default()
                    .push((bound, sample.value));
            } else if sample.name.ends_with("_count") {
                counts.insert(labels, sample.value);
            }
        }
        assert!(!series.is_empty(), "{name} has no buckets");
        for (labels, buckets) in series {
            assert!(
                buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1),
                "{name}: {buckets:?}"
            );
            let (bound, count) = *buckets.last().expect("buckets");
            assert!(bound.is_infinite(), "{name}: {buckets:?}");
            assert_eq!(Some(&count), counts.get(&labels), "{name} {labels:?}");
        }
    }
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (head, value) = line.rsplit_once(' ').expect("a value");
        let value = match value {
            "+Inf" => f64::INFINITY,
            value => value.parse().expect("a number"),
        };
        let (name, labels) = match head.split_once('{') {
            None => (head, ""),
            Some((name, labels)) => (name, labels.strip_suffix('}').expect("an end")),
        };
        let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(name.chars().all(sound), "{line}");
        let label = |text: &str| {
            let (name, value) = text.split_once("=\"").expect("a label");
            let value = value.strip_suffix('"').expect("a quote");
            (name.to_owned(), value.to_owned())
        };
        // No value of ours has a comma or a quote in it.
        let labels = labels.split(',').filter(|text| !text.is_empty());
        Self {
            name: name.to_owned(),
            labels: labels.map(label).collect(),
            value,
        }
    }

    /// The family that it belongs to.
    fn family(&self, families: &BTreeMap<String, Family>) -> String {
        for suffix in ["_bucket", "_sum", "_count"] {
            if let Some(name) = self.name.strip_suffix(suffix)
                && families.get(name).is_some_and(|f| f.kind == "histogram")
            {
                return name.to_owned();
            }
        }
        self.name.clone()
    }
}
