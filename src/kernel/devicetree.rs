//! Flattened device trees, as the firmware hands them to the kernel: a reader.
//!
//! The format is chapter 5 of the Devicetree Specification, version 0.4: a header, a block of tokens and a block of property
//! names, all big-endian. A [`Tree`] is the list of its nodes in the order of the file, each with its full path; whoever
//! follows a reference looks its phandle up with [`Tree::by_phandle`]. Every offset and length is checked, so that a damaged
//! file is an error and never a tree with holes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// The version of the format that is understood; a file says with which it is compatible.
const VERSION: u32 = 17;
/// The oldest version that has the length of its token block in the header.
const OLDEST: u32 = 17;

/// A whole device tree.
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    phandles: BTreeMap<u32, usize>,
}

/// One node of a [`Tree`].
#[derive(Clone, Debug)]
pub struct Node {
    /// The full path, as `/soc/mmc@7e202000`; the root is `/`.
    pub path: String,
    /// The node that this one stands in, by its index; none for the root.
    pub parent: Option<usize>,
    /// The nodes that stand in this one, by their index.
    pub children: Vec<usize>,
    properties: BTreeMap<String, Vec<u8>>,
}

impl Node {
    /// The bytes of a property.
    pub fn property(&self, name: &str) -> Option<&[u8]> {
        self.properties.get(name).map(Vec::as_slice)
    }

    /// Every property with its bytes, by name.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.properties.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// A property that is one number.
    pub fn number(&self, name: &str) -> Option<u32> {
        match cells(self.property(name)?).as_slice() {
            [number] => Some(*number),
            _ => None,
        }
    }

    /// A property that is a list of strings; empty when there is none.
    pub fn strings(&self, name: &str) -> Vec<String> {
        let text = String::from_utf8_lossy(self.property(name).unwrap_or_default());
        text.split_terminator('\0').map(str::to_owned).collect()
    }

    /// The names of the drivers' tables that fit this node, the most special first; empty when it isn't a device.
    pub fn compatible(&self) -> Vec<String> {
        self.strings("compatible")
    }

    /// Whether the node itself is switched on: section 2.3.4 of the specification, `status`.
    pub fn is_enabled(&self) -> bool {
        self.strings("status").first().is_none_or(|status| status == "okay" || status == "ok")
    }
}

/// The numbers of a property; bytes behind the last whole number are left out.
pub fn cells(value: &[u8]) -> Vec<u32> {
    value.chunks_exact(4).map(|cell| u32::from_be_bytes([cell[0], cell[1], cell[2], cell[3]])).collect()
}

impl Tree {
    /// Reads a device tree blob.
    ///
    /// # Errors
    /// It isn't one, is of a version that isn't understood, is cut short, or its structure doesn't add up.
    pub fn parse(blob: &[u8]) -> Result<Self> {
        ensure!(word(blob, 0).context("reading its header")? == MAGIC, "it isn't a device tree: the magic number is missing");
        let header = |index: usize| word(blob, index * 4).context("reading its header");
        let [total, structure_at, names_at] = [header(1)?, header(2)?, header(3)?];
        let [version, compatible] = [header(5)?, header(6)?];
        ensure!(version >= OLDEST && compatible <= VERSION, "its version {version} isn't understood, only {VERSION} is");
        let total = usize::try_from(total)?;
        let blob = blob.get(..total).with_context(|| format!("it is cut short: {} of {total} bytes", blob.len()))?;
        let names = block(blob, names_at, header(8)?).context("its block of names lies outside of it")?;
        let structure = block(blob, structure_at, header(9)?).context("its block of nodes lies outside of it")?;
        let nodes = Structure { bytes: structure, names, at: 0 }.nodes()?;
        let mut phandles = BTreeMap::new();
        for (index, node) in nodes.iter().enumerate() {
            let Some(phandle) = node.number("phandle").or_else(|| node.number("linux,phandle")) else { continue };
            if let Some(other) = phandles.insert(phandle, index) {
                let other: &Node = &nodes[other];
                bail!("{} and {} have the same phandle {phandle:#x}", other.path, node.path);
            }
        }
        Ok(Self { nodes, phandles })
    }

    /// Every node, in the order of the file, the root first; references by index mean this list.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The index of the node that carries a phandle.
    pub fn by_phandle(&self, phandle: u32) -> Option<usize> {
        self.phandles.get(&phandle).copied()
    }

    /// A node and those that it stands in, up to the root.
    pub fn ancestry(&self, index: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(index), |&index| self.nodes[index].parent)
    }

    /// Whether a node and all that it stands in are switched on.
    pub fn is_enabled(&self, index: usize) -> bool {
        self.ancestry(index).all(|index| self.nodes[index].is_enabled())
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(word.try_into().ok()?))
}

fn block(blob: &[u8], at: u32, size: u32) -> Option<&[u8]> {
    let at = usize::try_from(at).ok()?;
    blob.get(at..at.checked_add(usize::try_from(size).ok()?)?)
}

/// The name at the front of `bytes`, without the zero byte that ends it.
fn name(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    std::str::from_utf8(&bytes[..end]).ok()
}

/// The block of tokens, with a cursor.
struct Structure<'a> {
    bytes: &'a [u8],
    names: &'a [u8],
    at: usize,
}

impl<'a> Structure<'a> {
    fn nodes(mut self) -> Result<Vec<Node>> {
        let mut nodes: Vec<Node> = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        loop {
            let at = self.at;
            match self.word()? {
                BEGIN_NODE => {
                    let name = name(&self.bytes[self.at..]).with_context(|| format!("a node's name at byte {at} has no end"))?;
                    self.at = (self.at + name.len() + 1).next_multiple_of(4);
                    let parent = open.last().copied();
                    ensure!(parent.is_some() || nodes.is_empty(), "it has two roots");
                    let path = match parent.map(|parent| nodes[parent].path.as_str()) {
                        None => "/".to_owned(),
                        Some("/") => format!("/{name}"),
                        Some(parent) => format!("{parent}/{name}"),
                    };
                    if let Some(parent) = parent {
                        let index = nodes.len();
                        nodes[parent].children.push(index);
                    }
                    open.push(nodes.len());
                    nodes.push(Node { path, parent, children: Vec::new(), properties: BTreeMap::new() });
                }
                END_NODE => ensure!(open.pop().is_some(), "a node ends at byte {at} that never began"),
                PROP => {
                    let node = open.last().with_context(|| format!("a property stands outside of all nodes at byte {at}"))?;
                    let (name, value) = self.property()?;
                    nodes[*node].properties.insert(name.to_owned(), value.to_vec());
                }
                NOP => {}
                END => break,
                token => bail!("an unknown token {token:#x} stands at byte {at}"),
            }
        }
        ensure!(open.is_empty(), "it ends inside of {}", nodes[open[0]].path);
        ensure!(!nodes.is_empty(), "it has no root");
        Ok(nodes)
    }

    fn word(&mut self) -> Result<u32> {
        let word = word(self.bytes, self.at).with_context(|| format!("its block of nodes is cut short at byte {}", self.at))?;
        self.at += 4;
        Ok(word)
    }

    fn property(&mut self) -> Result<(&'a str, &'a [u8])> {
        let size = usize::try_from(self.word()?)?;
        let name_at = usize::try_from(self.word()?)?;
        let name = self.names.get(name_at..).and_then(name);
        let name = name.with_context(|| format!("a property's name at byte {name_at} is outside of the names"))?;
        let value = self.at.checked_add(size).and_then(|end| self.bytes.get(self.at..end));
        let value = value.with_context(|| format!("the value of {name} reaches past the end"))?;
        self.at = (self.at + size).next_multiple_of(4);
        Ok((name, value))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::process::Command;

    use super::Tree;
    use crate::process;

    /// Compiles device tree source; needs `dtc`, of the package device-tree-compiler.
    pub(crate) fn compile(source: &str) -> Vec<u8> {
        let source = format!("/dts-v1/;\n{source}");
        let mut dtc = Command::new("dtc");
        process::output_with_input(dtc.args(["-q", "-@", "-I", "dts", "-O", "dtb"]), "compiling a device tree", source.as_bytes())
            .unwrap()
    }

    fn sample() -> Vec<u8> {
        compile(
            r#"/ { compatible = "a,board"; soc { status = "ok";
               clk: clock@10 { compatible = "b,special", "b,common"; #clock-cells = <2>; };
               mmc@20 { clocks = <&clk 3 4>; status = "disabled"; slot { }; }; }; };"#,
        )
    }

    #[test]
    fn nodes_have_paths_properties_and_families() {
        let tree = Tree::parse(&sample()).unwrap();
        let paths: Vec<_> = tree.nodes().iter().map(|node| node.path.as_str()).take(5).collect();
        assert_eq!(paths, ["/", "/soc", "/soc/clock@10", "/soc/mmc@20", "/soc/mmc@20/slot"]);
        let clock = &tree.nodes()[2];
        assert_eq!(clock.compatible(), ["b,special", "b,common"]);
        assert_eq!(clock.number("#clock-cells"), Some(2));
        assert_eq!(clock.parent, Some(1));
        assert_eq!(tree.nodes()[1].children, [2, 3]);
        let cells = super::cells(tree.nodes()[3].property("clocks").unwrap());
        assert_eq!(cells[1..], [3, 4]);
        assert_eq!(tree.by_phandle(cells[0]), Some(2));
        assert_eq!(tree.ancestry(4).collect::<Vec<_>>(), [4, 3, 1, 0]);
    }

    #[test]
    fn a_node_is_off_with_any_that_it_stands_in() {
        let tree = Tree::parse(&sample()).unwrap();
        assert_eq!((0..5).map(|index| tree.is_enabled(index)).collect::<Vec<_>>(), [true, true, true, false, false]);
    }

    #[test]
    fn every_cut_is_an_error() {
        let blob = sample();
        for length in 0..blob.len() {
            assert!(Tree::parse(&blob[..length]).is_err(), "{length} bytes were taken for a whole tree");
        }
    }

    #[test]
    fn damage_never_panics() {
        let blob = sample();
        for at in 0..blob.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut blob = blob.clone();
                blob[at] = byte;
                let _ = Tree::parse(&blob);
            }
        }
        let mut blob = blob;
        blob[0] = 0;
        assert_eq!(Tree::parse(&blob).unwrap_err().to_string(), "it isn't a device tree: the magic number is missing");
    }
}
