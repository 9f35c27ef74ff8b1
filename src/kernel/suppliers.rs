//! What a device of a device tree needs before its driver can start.
//!
//! A driver whose regulator, clock or power domain has no driver yet is put off by the kernel, and in an initramfs that lacks
//! the module it is put off for ever: an SD card that never appears. So whoever wants to know that a device comes up follows
//! its node's references, and theirs, and the buses that it stands on. The properties are those that the kernel itself makes
//! device links of (`of_supplier_bindings` in `drivers/of/property.c`), and a few that drivers look up by hand. How many
//! numbers follow each phandle stands in the node that is referred to, as `#clock-cells` does (Devicetree Specification 0.4
//! for interrupts; the rest by the kernel's `Documentation/devicetree/bindings`).
//!
//! A node without `compatible` is no device: its references count for the device that it stands in, as the LEDs of a
//! `gpio-leds` do, and a reference to it means that device, as with groups of pins. A child with `compatible` is another
//! device, and coming up doesn't wait for it. A supplier that is switched off counts for nothing, as in the kernel.

use std::collections::BTreeSet;

use super::devicetree::{Node, Tree, cells};

/// How many numbers follow each phandle of a property.
#[derive(Clone, Copy)]
enum Arguments {
    /// None at all.
    None,
    /// As many as this property of the node referred to says.
    Said(&'static str),
    /// Likewise, and none when it isn't there.
    SaidOrNone(&'static str),
}

const REFERENCES: &[(&str, Arguments)] = &[
    ("access-controllers", Arguments::SaidOrNone("#access-controller-cells")),
    ("clocks", Arguments::Said("#clock-cells")),
    ("dmas", Arguments::Said("#dma-cells")),
    ("extcon", Arguments::None),
    // Broadcom's own: the mailbox firmware that switches clocks, power and GPIO lines
    ("firmware", Arguments::None),
    ("gpio", Arguments::Said("#gpio-cells")),
    ("gpios", Arguments::Said("#gpio-cells")),
    ("hwlocks", Arguments::Said("#hwlock-cells")),
    ("interconnects", Arguments::Said("#interconnect-cells")),
    ("interrupts-extended", Arguments::Said("#interrupt-cells")),
    ("io-channels", Arguments::Said("#io-channel-cells")),
    ("iommus", Arguments::Said("#iommu-cells")),
    ("mboxes", Arguments::Said("#mbox-cells")),
    // a host waits for what switches the power of its card
    ("mmc-pwrseq", Arguments::None),
    ("msi-parent", Arguments::SaidOrNone("#msi-cells")),
    ("nvmem-cells", Arguments::SaidOrNone("#nvmem-cell-cells")),
    ("phys", Arguments::Said("#phy-cells")),
    ("power-domains", Arguments::Said("#power-domain-cells")),
    ("pwms", Arguments::Said("#pwm-cells")),
    ("resets", Arguments::Said("#reset-cells")),
    // what `phys` was called for USB
    ("usb-phy", Arguments::None),
    ("wakeup-parent", Arguments::None),
];

fn arguments(property: &str) -> Option<Arguments> {
    let known = REFERENCES.iter().find(|(name, _)| *name == property).map(|(_, arguments)| *arguments);
    known.or_else(|| {
        if property.ends_with("-supply") {
            return Some(Arguments::None);
        }
        if property.ends_with("-gpios") || property.ends_with("-gpio") {
            return Some(Arguments::Said("#gpio-cells"));
        }
        let state = property.strip_prefix("pinctrl-")?;
        state.bytes().all(|byte| byte.is_ascii_digit()).then_some(Arguments::None)
    })
}

/// A device that has to come up, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Its node, by its index in [`Tree::nodes`]; it has a `compatible`.
    pub node: usize,
    /// What it is needed for: `vqmmc-supply of /emmc2bus/mmc@7e340000`.
    pub because: String,
}

/// What [`follow`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suppliers {
    /// Every device that has to come up, each once, in the order of the search.
    pub devices: Vec<Reached>,
    /// References that lead nowhere, one sentence each: the device tree is damaged.
    pub broken: Vec<String>,
}

/// Finds every device that `starts` need, themselves included; each start is a node with what it is wanted for.
pub fn follow(tree: &Tree, starts: &[(usize, String)]) -> Suppliers {
    let mut found = Suppliers::default();
    let mut seen = BTreeSet::new();
    let mut queue = starts.to_vec();
    let mut next = 0;
    while let Some((node, because)) = queue.get(next).cloned() {
        next += 1;
        let Some(device) = device(tree, node) else { continue };
        if !seen.insert(device) {
            continue;
        }
        found.devices.push(Reached { node: device, because });
        let path = &tree.nodes()[device].path;
        if let Some(parent) = tree.nodes()[device].parent {
            queue.push((parent, format!("the bus of {path}")));
        }
        for part in parts(tree, device) {
            match references(tree, part) {
                Ok(targets) => queue.extend(targets.into_iter().filter(|(target, _)| tree.is_enabled(*target))),
                Err(broken) => found.broken.push(broken),
            }
        }
    }
    found
}

/// The node itself or the nearest one around it that is a device; none below the root, which is the board.
fn device(tree: &Tree, node: usize) -> Option<usize> {
    tree.ancestry(node).find(|&index| tree.nodes()[index].property("compatible").is_some()).filter(|&index| index != 0)
}

/// The nodes that make up a device: its own, and below it those that are switched on and no devices of their own.
fn parts(tree: &Tree, device: usize) -> Vec<usize> {
    let mut parts = vec![device];
    let mut next = 0;
    while let Some(&part) = parts.get(next) {
        next += 1;
        let children = tree.nodes()[part].children.iter().copied();
        parts.extend(children.filter(|&child| {
            let child = &tree.nodes()[child];
            child.is_enabled() && child.property("compatible").is_none()
        }));
    }
    parts
}

/// Every node that a node's properties refer to, with the property; a sentence when a reference leads nowhere.
fn references(tree: &Tree, index: usize) -> Result<Vec<(usize, String)>, String> {
    let node = &tree.nodes()[index];
    let mut found = Vec::new();
    for (property, value) in node.properties() {
        let Some(arguments) = arguments(property) else { continue };
        // a line that its own controller sets once: the numbers stand alone, without a phandle
        if node.property("gpio-hog").is_some() && property == "gpios" {
            continue;
        }
        let because = format!("{property} of {}", node.path);
        let value = cells(value);
        let mut at = 0;
        while let Some(&phandle) = value.get(at) {
            at += 1;
            // an empty place in a list, as a chip select that is no GPIO line
            if phandle == 0 || phandle == u32::MAX {
                continue;
            }
            let target = target(tree, phandle, &because)?;
            at += count(&tree.nodes()[target], arguments, &because)?;
            if at > value.len() {
                return Err(format!("{because} is cut short"));
            }
            found.push((target, because.clone()));
        }
    }
    if node.property("interrupts").is_some() {
        let because = format!("interrupts of {}", node.path);
        found.push((interrupt_parent(tree, index, &because)?, because));
    }
    if let Some(map) = node.property("interrupt-map") {
        let because = format!("interrupt-map of {}", node.path);
        let targets = interrupt_map(tree, node, &cells(map), &because)?;
        found.extend(targets.into_iter().map(|target| (target, because.clone())));
    }
    Ok(found)
}

fn target(tree: &Tree, phandle: u32, because: &str) -> Result<usize, String> {
    tree.by_phandle(phandle).ok_or_else(|| format!("{because} refers to a node {phandle:#x} that isn't there"))
}

fn count(target: &Node, arguments: Arguments, because: &str) -> Result<usize, String> {
    let (name, default) = match arguments {
        Arguments::None => return Ok(0),
        Arguments::Said(name) => (name, None),
        Arguments::SaidOrNone(name) => (name, Some(0)),
    };
    let count = target.number(name).or(default).and_then(|count| usize::try_from(count).ok());
    count.ok_or_else(|| format!("{because} refers to {}, which has no {name}", target.path))
}

/// Where a node's interrupts go: section 2.4.1 of the specification, as the kernel's `of_irq_find_parent` reads it.
fn interrupt_parent(tree: &Tree, index: usize, because: &str) -> Result<usize, String> {
    for node in tree.ancestry(index) {
        if let Some(phandle) = tree.nodes()[node].number("interrupt-parent") {
            return target(tree, phandle, because);
        }
        if node != index && tree.nodes()[node].property("#interrupt-cells").is_some() {
            return Ok(node);
        }
    }
    Err(format!("{because} lead nowhere: there is no interrupt-parent"))
}

/// The controllers that a bridge hands the interrupts of its children to: section 2.4.3.1 of the specification.
fn interrupt_map(tree: &Tree, node: &Node, map: &[u32], because: &str) -> Result<Vec<usize>, String> {
    let cut = || format!("{because} is cut short");
    let child =
        count(node, Arguments::Said("#address-cells"), because)? + count(node, Arguments::Said("#interrupt-cells"), because)?;
    let mut found = Vec::new();
    let mut at = 0;
    while at < map.len() {
        let target = target(tree, *map.get(at + child).ok_or_else(cut)?, because)?;
        let parent = &tree.nodes()[target];
        at += child
            + 1
            + count(parent, Arguments::SaidOrNone("#address-cells"), because)?
            + count(parent, Arguments::Said("#interrupt-cells"), because)?;
        if at > map.len() {
            return Err(cut());
        }
        found.push(target);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::follow;
    use crate::kernel::devicetree::{Tree, tests::compile};

    fn reached(source: &str, start: &str) -> (Vec<String>, Vec<String>) {
        let tree = Tree::parse(&compile(source)).unwrap();
        let start = tree.nodes().iter().position(|node| node.path == start).unwrap();
        let found = follow(&tree, &[(start, "it".to_owned())]);
        let line = |reached: &super::Reached| format!("{}: {}", tree.nodes()[reached.node].path, reached.because);
        (found.devices.iter().map(line).collect(), found.broken)
    }

    #[test]
    fn references_are_followed_with_the_cells_of_their_targets() {
        let source = r#"/ { interrupt-parent = <&gic>;
            gic: gic { compatible = "gic"; #interrupt-cells = <3>; interrupt-controller; };
            bus { compatible = "bus";
              mmc { compatible = "mmc"; clocks = <&three 1 2 3>, <&none>; vmmc-supply = <&power>; interrupts = <1 2 3>;
                    pinctrl-0 = <&group>; pinctrl-names = "default"; };
              three: three { compatible = "three"; #clock-cells = <3>; };
              none: none { compatible = "none"; #clock-cells = <0>; };
              pins { compatible = "pins"; group: group { function = "sd"; }; };
              unasked { compatible = "unasked"; };
            };
            power: power { compatible = "power"; gpio = <&lines 5 0>; vin-supply = <&off>; };
            off: off { compatible = "off"; status = "disabled"; };
            lines: lines { compatible = "lines"; #gpio-cells = <2>; hog { gpio-hog; gpios = <99 0>; }; };
        };"#;
        let (devices, broken) = reached(source, "/bus/mmc");
        let wanted = [
            "/bus/mmc: it",
            "/bus: the bus of /bus/mmc",
            "/bus/three: clocks of /bus/mmc",
            "/bus/none: clocks of /bus/mmc",
            "/bus/pins: pinctrl-0 of /bus/mmc",
            "/power: vmmc-supply of /bus/mmc",
            "/gic: interrupts of /bus/mmc",
            "/lines: gpio of /power",
        ];
        assert_eq!(devices, wanted);
        assert!(broken.is_empty(), "{broken:?}");
    }

    #[test]
    fn children_that_are_no_devices_belong_to_theirs() {
        let source = r#"/ {
            leds { compatible = "gpio-leds"; act { gpios = <&a 1>; }; off { gpios = <&b 1>; status = "disabled"; }; };
            usb { compatible = "usb"; hub { compatible = "hub"; vdd-supply = <&b>; }; port { resets = <&a 1>; }; };
            a: a { compatible = "a"; #gpio-cells = <1>; #reset-cells = <1>; };
            b: b { compatible = "b"; #gpio-cells = <1>; }; };"#;
        assert_eq!(reached(source, "/leds").0, ["/leds: it", "/a: gpios of /leds/act"]);
        assert_eq!(reached(source, "/usb").0, ["/usb: it", "/a: resets of /usb/port"]);
    }

    #[test]
    fn interrupts_go_through_bridges() {
        let source = r#"/ {
            gic: gic { compatible = "gic"; #interrupt-cells = <3>; };
            other: other { compatible = "other"; #interrupt-cells = <1>; #address-cells = <2>; #size-cells = <1>; };
            pcie { compatible = "pcie"; #address-cells = <3>; #size-cells = <2>; #interrupt-cells = <1>;
              interrupt-map = <0 0 0 1 &gic 0 1 4>, <0 0 0 2 &other 7 7 1>;
              card { compatible = "card"; interrupts = <1>; }; }; };"#;
        let wanted =
            ["/pcie/card: it", "/pcie: the bus of /pcie/card", "/gic: interrupt-map of /pcie", "/other: interrupt-map of /pcie"];
        assert_eq!(reached(source, "/pcie/card").0, wanted);
    }

    #[test]
    fn references_that_lead_nowhere_are_named() {
        let source = r#"/ { a { compatible = "a"; clocks = <99>; };
            b { compatible = "b"; clocks = <&c 1>; };
            c: c { compatible = "c"; };
            d { compatible = "d"; clocks = <&e 1>; };
            e: e { compatible = "e"; #clock-cells = <2>; };
            f { compatible = "f"; interrupts = <1>; }; };"#;
        assert_eq!(reached(source, "/a").1, ["clocks of /a refers to a node 0x63 that isn't there"]);
        assert_eq!(reached(source, "/b").1, ["clocks of /b refers to /c, which has no #clock-cells"]);
        assert_eq!(reached(source, "/d").1, ["clocks of /d is cut short"]);
        assert_eq!(reached(source, "/f").1, ["interrupts of /f lead nowhere: there is no interrupt-parent"]);
    }
}
