//! A reader of Prometheus' text format that is as strict as its description
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>), so that what it reads is what a scraper would.

use std::collections::{BTreeMap, BTreeSet};

/// A page.
#[derive(Debug, Default)]
pub(super) struct Text {
    pub(super) families: BTreeMap<String, Family>,
}

/// A family and its samples.
#[derive(Debug, Default)]
pub(super) struct Family {
    pub(super) kind: String,
    pub(super) help: String,
    pub(super) samples: Vec<Sample>,
}

#[derive(Debug)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) value: f64,
}

impl Text {
    pub(super) fn read(page: &str) -> Self {
        assert!(page.ends_with('\n'), "the last line must end");
        let mut text = Self::default();
        let mut current = String::new();
        let mut seen = BTreeSet::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help text");
                current = name.to_owned();
                let family = Family { help: help.to_owned(), ..Family::default() };
                assert!(text.families.insert(current.clone(), family).is_none(), "{name} comes twice");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                assert_eq!(name, current);
                kind.clone_into(&mut text.families.get_mut(name).unwrap().kind);
            } else {
                let sample = Sample::read(line);
                assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "{line} comes twice");
                let family = text.families.get_mut(&current).expect("a family before its samples");
                let suffix = sample.name.strip_prefix(&current).unwrap_or_else(|| panic!("{line} is among {current}"));
                let is_known = if family.kind == "histogram" { ["_bucket", "_sum", "_count"].contains(&suffix) } else { suffix.is_empty() };
                assert!(is_known, "{line} is among {current}");
                family.samples.push(sample);
            }
        }
        text
    }

    /// The value of a sample, if it is published.
    pub(super) fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: BTreeMap<String, String> = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut samples = self.families.values().flat_map(|family| &family.samples);
        samples.find(|sample| sample.name == name && sample.labels == wanted).map(|sample| sample.value)
    }

    /// The value of a sample that must be published.
    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("{name}{labels:?} is not published"))
    }
}

impl Sample {
    fn read(line: &str) -> Self {
        let name_ends = line.find(['{', ' ']).expect("a name and a value");
        let (name, mut rest) = line.split_at(name_ends);
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'), "{name}");
        let mut labels = BTreeMap::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            while !rest.starts_with('}') {
                let (label, after) = rest.split_once("=\"").expect("a label");
                let (value, after) = quoted(after);
                assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
                rest = after.strip_prefix(',').unwrap_or(after);
            }
            rest = &rest[1..];
        }
        let value = rest.strip_prefix(' ').expect("a value").parse().unwrap_or_else(|_| panic!("no number in {line}"));
        Self { name: name.to_owned(), labels, value }
    }
}

/// Reads up to the closing quote: the value, and what follows.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match letters.next().expect("an escaped letter").1 {
                'n' => '\n',
                other @ ('\\' | '"') => other,
                other => panic!("\\{other} is no escape"),
            }),
            letter => value.push(letter),
        }
    }
    panic!("no closing quote in {text}");
}
