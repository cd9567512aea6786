//! Images against nodes: rows are images, columns are regions, or the nodes of one region.

use super::filter::Filter;
use super::fleet::Fleet;
use super::images::{Images, called};
use super::list::List;

/// Where one is in the matrix.
pub(crate) struct Matrix {
    pub(crate) list: List,
    /// Region whose nodes are columns; the regions themselves when absent.
    pub(crate) region: Option<String>,
    pub(crate) column: usize,
    /// First column that is shown.
    pub(crate) left: usize,
}

/// What the rows can be sorted by.
pub(crate) const COLUMNS: [&str; 3] = ["IMAGE", "NODES", "AGE"];

impl Matrix {
    pub(crate) fn new() -> Self {
        Self {
            list: List::sorted_by(1, false),
            region: None,
            column: 0,
            left: 0,
        }
    }

    /// Names of the columns.
    pub(crate) fn columns(&self, fleet: &Fleet) -> Vec<String> {
        match &self.region {
            None => fleet.region_sizes().into_keys().collect(),
            Some(region) => {
                let here = fleet.nodes.values().filter(|n| n.region == *region);
                here.map(|n| n.name.clone()).collect()
            }
        }
    }

    /// Goes to another column.
    pub(crate) fn move_by(&mut self, columns: isize, fleet: &Fleet) {
        let count = self.columns(fleet).len();
        self.column = self
            .column
            .saturating_add_signed(columns)
            .min(count.saturating_sub(1));
    }

    /// Into the chosen region, or back to all; whether there was somewhere to go.
    pub(crate) fn drill(&mut self, into: bool, fleet: &Fleet) -> bool {
        let region = match (&self.region, into) {
            (None, true) => self.columns(fleet).get(self.column).cloned(),
            (Some(_), false) => None,
            _ => return false,
        };
        if region.is_none() && into {
            return false;
        }
        let before = std::mem::replace(&mut self.region, region);
        let columns = self.columns(fleet);
        self.column = before
            .and_then(|before| columns.iter().position(|c| *c == before))
            .unwrap_or(0);
        self.left = 0;
        true
    }

    /// Sorts and filters.
    pub(crate) fn arrange(&mut self, images: &Images, fleet: &Fleet) {
        let mut filter = Filter::new(&self.list.filter);
        let mut rows: Vec<_> = images
            .all
            .values()
            .filter(|i| filter.lets_by(|| format!("{} {}", i.names.join(" "), i.image_hash.hex())))
            .collect();
        rows.sort_by(|a, b| b.created.cmp(&a.created));
        match self.list.sort {
            0 => rows.sort_by_cached_key(|image| (image.names.is_empty(), called(image))),
            1 => rows.sort_by_cached_key(|image| {
                let here = self.region.as_ref();
                let here = here.map(|region| fleet.holders_in(region, &image.digest));
                std::cmp::Reverse(here.unwrap_or_else(|| fleet.holders(&image.digest)))
            }),
            _ => {}
        }
        if self.list.reverse {
            rows.reverse();
        }
        let keys = rows.into_iter().map(|i| i.image_hash.to_string()).collect();
        self.list.arrange(keys);
        let count = self.columns(fleet).len();
        self.column = self.column.min(count.saturating_sub(1));
    }
}
