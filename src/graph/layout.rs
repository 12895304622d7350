//! Where boxes stand: in layers from users down to files, with few crossings.
//!
//! Layers by the longest way from the top; edges over several layers pass through points of their own,
//! so that no line crosses a box; a few sweeps put each box under the middle of what is above it.
//! Invariant: boxes of a layer do not touch. Not here: how they look (`svg.rs`).

use std::collections::BTreeMap;

/// Distance of boxes in a layer.
const GAP: f64 = 24.0;
/// Distance of layers.
const BETWEEN: f64 = 48.0;
/// Sweeps that order the layers: more do not show.
const SWEEPS: usize = 6;

/// A box to be placed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Size {
    pub(super) width: f64,
    pub(super) height: f64,
}

/// The corner of a box that is up and left.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Place {
    pub(super) x: f64,
    pub(super) y: f64,
}

/// Boxes, ways between them, and the whole's size.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) places: Vec<Place>,
    /// By edge: the points that it passes, both ends among them.
    pub(super) ways: Vec<Vec<Place>>,
    pub(super) whole: Size,
}

/// What stands in a layer: a box, or a point that an edge passes.
struct Items {
    sizes: Vec<Size>,
    layers: Vec<Vec<usize>>,
    /// Above and below, by item.
    near: Vec<[Vec<usize>; 2]>,
    /// By edge: the items on its way.
    chains: Vec<Vec<usize>>,
}

/// Places boxes; edges lead from the upper to the lower box.
pub(super) fn place(sizes: &[Size], edges: &[(usize, usize)]) -> Layout {
    let depths = depths(sizes.len(), edges);
    let mut items = Items::new(sizes, edges, &depths);
    items.order();
    let x = items.columns();
    let y = items.rows();
    let mut whole = Size::default();
    for item in 0..items.sizes.len() {
        let size = items.sizes[item];
        whole.width = whole.width.max(x[item] + size.width);
        whole.height = whole.height.max(y[item] + size.height);
    }
    let way = |chain: &Vec<usize>| {
        let mut points = Vec::new();
        for (number, &item) in chain.iter().enumerate() {
            let middle = x[item] + items.sizes[item].width / 2.0;
            let bottom = y[item] + items.sizes[item].height;
            if number > 0 {
                points.push(Place {
                    x: middle,
                    y: y[item],
                });
            }
            if number + 1 < chain.len() {
                points.push(Place {
                    x: middle,
                    y: bottom,
                });
            }
        }
        points
    };
    Layout {
        places: (0..sizes.len())
            .map(|item| Place {
                x: x[item],
                y: y[item],
            })
            .collect(),
        ways: items.chains.iter().map(way).collect(),
        whole,
    }
}

/// The layer of each box: one below the lowest of what leads to it. A circle is cut where it is met.
fn depths(count: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut depths = vec![0; count];
    let mut waits = vec![0_usize; count];
    for &(_, child) in edges {
        waits[child] += 1;
    }
    let mut ready: Vec<usize> = (0..count).filter(|&item| waits[item] == 0).collect();
    let mut settled = vec![false; count];
    loop {
        let Some(item) = ready.pop() else {
            match settled.iter().position(|settled| !settled) {
                Some(in_circle) => ready.push(in_circle),
                None => return depths,
            }
            continue;
        };
        if std::mem::replace(&mut settled[item], true) {
            continue;
        }
        for &(parent, child) in edges {
            if parent == item && !settled[child] {
                depths[child] = depths[child].max(depths[item] + 1);
                waits[child] = waits[child].saturating_sub(1);
                if waits[child] == 0 {
                    ready.push(child);
                }
            }
        }
    }
}

impl Items {
    fn new(sizes: &[Size], edges: &[(usize, usize)], depths: &[usize]) -> Items {
        let layers = depths.iter().max().map_or(0, |depth| depth + 1);
        let mut items = Items {
            sizes: Vec::new(),
            layers: vec![Vec::new(); layers],
            near: Vec::new(),
            chains: Vec::new(),
        };
        for (&size, &depth) in sizes.iter().zip(depths) {
            items.add(size, depth);
        }
        for &(parent, child) in edges {
            let mut chain = vec![parent];
            for depth in depths[parent] + 1..depths[child] {
                chain.push(items.add(Size::default(), depth));
            }
            chain.push(child);
            // The edge that closes a circle goes upwards, and orders nothing.
            if depths[child] > depths[parent] {
                for pair in chain.windows(2) {
                    items.near[pair[0]][1].push(pair[1]);
                    items.near[pair[1]][0].push(pair[0]);
                }
            }
            items.chains.push(chain);
        }
        items
    }

    fn add(&mut self, size: Size, depth: usize) -> usize {
        let item = self.sizes.len();
        self.sizes.push(size);
        self.near.push([Vec::new(), Vec::new()]);
        self.layers[depth].push(item);
        item
    }

    /// Orders each layer by the middle of what is near in the layer before, up and down in turns.
    fn order(&mut self) {
        for sweep in 0..SWEEPS {
            let down = sweep % 2 == 0;
            let count = self.layers.len();
            for step in 1..count {
                let (layer, before) = match down {
                    true => (step, step - 1),
                    false => (count - 1 - step, count - step),
                };
                let position: BTreeMap<usize, u32> =
                    self.layers[before].iter().copied().zip(0..).collect();
                let own: BTreeMap<usize, u32> =
                    self.layers[layer].iter().copied().zip(0..).collect();
                let near = &self.near;
                let middle = |item: &usize| {
                    let near = &near[*item][usize::from(!down)];
                    let near = near.iter().filter_map(|item| position.get(item));
                    mean(near.map(|&at| f64::from(at))).unwrap_or(f64::from(own[item]))
                };
                let mut ordered = self.layers[layer].clone();
                ordered.sort_by(|a, b| middle(a).total_cmp(&middle(b)));
                self.layers[layer] = ordered;
            }
        }
    }

    /// Left edges: each under the middle of what is above, as far as its neighbours let it.
    fn columns(&self) -> Vec<f64> {
        let mut x = vec![0.0_f64; self.sizes.len()];
        for layer in &self.layers {
            let mut free = 0.0_f64;
            for &item in layer {
                let width = self.sizes[item].width;
                let above = self.near[item][0].iter();
                let wanted = mean(above.map(|&above| x[above] + self.sizes[above].width / 2.0));
                let wanted = wanted.map_or(free, |middle| middle - width / 2.0);
                x[item] = wanted.max(free);
                free = x[item] + width + GAP;
            }
        }
        x
    }

    /// Upper edges.
    fn rows(&self) -> Vec<f64> {
        let mut y = vec![0.0_f64; self.sizes.len()];
        let mut at = 0.0;
        for layer in &self.layers {
            let heights = layer.iter().map(|&item| self.sizes[item].height);
            let height = heights.fold(0.0, f64::max);
            for &item in layer {
                y[item] = at + (height - self.sizes[item].height) / 2.0;
            }
            at += height + BETWEEN;
        }
        y
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values {
        sum += value;
        count += 1.0;
    }
    (count > 0.0).then(|| sum / count)
}
