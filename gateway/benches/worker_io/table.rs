//! Measures variants of the same work in turn, and prints what they cost.

use crate::Cost;

/// One way to do the work of a row; each call does it once.
pub(crate) struct Variant<'a> {
    pub(crate) name: &'static str,
    pub(crate) run: Box<dyn FnMut() -> Cost + 'a>,
}

impl<'a> Variant<'a> {
    pub(crate) fn new(name: &'static str, run: impl FnMut() -> Cost + 'a) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// Repetitions. In each, the variants run forwards and then backwards, so that what changes slowly on the machine meets all of
/// them alike.
const REPETITIONS: usize = 9;

pub(crate) fn head() {
    println!("{:52} {:>26}  {:>22}", "row", "ns of CPU per packet", "ratio to (a)");
}

/// Prints a line for each variant; the first is (a).
pub(crate) fn row(name: &str, mut variants: Vec<Variant<'_>>) {
    // Caches, routes and buffers are as they stay.
    for variant in &mut variants {
        (variant.run)();
    }
    let mut costs = vec![Vec::new(); variants.len()];
    for _ in 0..REPETITIONS {
        let mut pair = vec![Cost::default(); variants.len()];
        for i in (0..variants.len()).chain((0..variants.len()).rev()) {
            pair[i] += (variants[i].run)();
        }
        for (costs, cost) in costs.iter_mut().zip(pair) {
            costs.push(cost.per_packet());
        }
    }
    println!("{name}");
    for (i, variant) in variants.iter().enumerate() {
        let cost = spread(costs[i].clone());
        let ratio = spread(costs[i].iter().zip(&costs[0]).map(|(cost, a)| cost / a).collect());
        let cost = format!("{:.1} ({:.1} to {:.1})", cost[1], cost[0], cost[2]);
        let ratio = match i {
            0 => String::new(),
            _ => format!("{:.2} ({:.2} to {:.2})", ratio[1], ratio[0], ratio[2]),
        };
        println!("  {:50} {cost:>26}  {ratio:>22}", variant.name);
    }
}

/// Least, median, most.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}
