//! The deepest chain of calls of a firmware: stack frames summed along its call graph.
//!
//! The firmware is built with `-Zemit-stack-sizes` and `--emit-relocs`: frames come from the section `.stack_sizes`, calls
//! from the relocations that the linker then leaves in. Every reference to a function in another one's code counts as a
//! call. What no code refers to is where a chain begins: the reset handler, and handlers of exceptions, any of which may
//! come at the deepest point. Calls through pointers are covered as far as the pointed-to function is named in the
//! caller's code or nowhere in code; the firmware has no others.
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionKind, SymbolKind};

/// Bytes counted for a function of which no frame is known: naked assembly, the compiler's routines for memory.
const UNKNOWN_FRAME: u64 = 128;
/// What the core itself pushes when an exception comes, with the registers of the floating-point unit.
const EXCEPTION_FRAME: u64 = 104;

/// Functions by address, the frame of each, and which others it may call.
#[derive(Debug, Default)]
pub struct CallGraph {
    names: BTreeMap<u64, String>,
    frames: BTreeMap<u64, u64>,
    calls: BTreeMap<u64, BTreeSet<u64>>,
}

/// The bound and the chain that makes most of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Deepest {
    /// Bytes of stack that no run can exceed.
    pub bytes: u64,
    /// The functions of the deepest chain, with their frames.
    pub chain: Vec<(String, u64)>,
}

impl CallGraph {
    /// Reads the graph of an ELF file; `frames` are addresses and bytes of `.stack_sizes`.
    pub fn read(elf: &object::File<'_>, frames: &[(u64, u64)]) -> Result<Self> {
        let mut graph = CallGraph { frames: frames.iter().copied().collect(), ..Self::default() };
        let mut ends = BTreeMap::new();
        for symbol in elf.symbols().filter(|s| s.kind() == SymbolKind::Text && s.is_definition()) {
            let (address, name) = (symbol.address() & !1, symbol.name().unwrap_or_default());
            // Mapping symbols ($t, $d) mark code and data, not functions.
            if !name.starts_with('$') {
                graph.names.entry(address).or_insert_with(|| format!("{:#}", rustc_demangle::demangle(name)));
                let end: &mut u64 = ends.entry(address).or_default();
                *end = (*end).max(address + symbol.size());
            }
        }
        let function = |address: u64| {
            let (&start, &end) = ends.range(..=address).next_back()?;
            (address == start || address < end).then_some(start)
        };
        let mut relocations = 0;
        for section in elf.sections().filter(|s| s.kind() == SectionKind::Text) {
            for (offset, relocation) in section.relocations() {
                relocations += 1;
                let RelocationTarget::Symbol(index) = relocation.target() else { continue };
                let target = elf.symbol_by_index(index)?;
                ensure!(
                    target.kind() != SymbolKind::Section || target.section_index() != Some(section.index()),
                    "a call through a section's symbol at {offset:#x}"
                );
                if target.kind() == SymbolKind::Text
                    && let (Some(from), Some(to)) = (function(offset), function(target.address() & !1))
                    && from != to
                {
                    graph.calls.entry(from).or_default().insert(to);
                }
            }
        }
        ensure!(relocations > 0, "the ELF file has no relocations: link it with --emit-relocs");
        Ok(graph)
    }

    /// The bound. Errors: a function that calls itself, directly or not.
    pub fn deepest(&self) -> Result<Deepest> {
        let called: BTreeSet<u64> = self.calls.values().flatten().copied().collect();
        let mut depths = BTreeMap::new();
        let mut roots = Vec::new();
        for &address in self.names.keys().filter(|address| !called.contains(address)) {
            roots.push((self.depth(address, &mut depths, &mut Vec::new())?, address));
        }
        roots.sort_unstable();
        let (_, mut at) = *roots.last().context("no function")?;
        let bytes = roots.iter().map(|(depth, _)| depth).sum::<u64>() + EXCEPTION_FRAME * (roots.len() as u64 - 1);
        let mut chain = vec![(self.names[&at].clone(), self.frame(at))];
        while let Some(&next) = self.calls.get(&at).and_then(|calls| calls.iter().max_by_key(|next| depths[*next])) {
            at = next;
            chain.push((self.names[&at].clone(), self.frame(at)));
        }
        Ok(Deepest { bytes, chain })
    }

    fn frame(&self, address: u64) -> u64 {
        self.frames.get(&address).copied().unwrap_or(UNKNOWN_FRAME)
    }

    fn depth(&self, address: u64, depths: &mut BTreeMap<u64, u64>, above: &mut Vec<u64>) -> Result<u64> {
        if let Some(&depth) = depths.get(&address) {
            return Ok(depth);
        }
        if above.contains(&address) {
            bail!("{} may call itself: no bound on the stack", self.names[&address]);
        }
        above.push(address);
        let mut deepest = 0;
        for &callee in self.calls.get(&address).into_iter().flatten() {
            deepest = deepest.max(self.depth(callee, depths, above)?);
        }
        above.pop();
        depths.insert(address, self.frame(address) + deepest);
        Ok(self.frame(address) + deepest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0 calls 10 and 20, 10 calls 20; 30 is a handler.
    fn graph(calls: &[(u64, u64)]) -> CallGraph {
        let mut graph = CallGraph::default();
        for (address, frame) in [(0, 1000), (10, 200), (20, 30), (30, 4)] {
            graph.names.insert(address, format!("f{address}"));
            graph.frames.insert(address, frame);
        }
        for &(from, to) in calls {
            graph.calls.entry(from).or_default().insert(to);
        }
        graph
    }

    #[test]
    fn the_deepest_chain_and_every_handler_count() {
        let found = graph(&[(0, 10), (0, 20), (10, 20)]).deepest().unwrap();
        assert_eq!(found.bytes, 1000 + 200 + 30 + 4 + EXCEPTION_FRAME);
        assert_eq!(found.chain.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["f0", "f10", "f20"]);
    }

    #[test]
    fn a_function_without_a_known_frame_counts_too() {
        let mut graph = graph(&[(0, 10), (0, 20), (10, 20)]);
        graph.frames.remove(&20);
        assert_eq!(graph.deepest().unwrap().bytes, 1000 + 200 + UNKNOWN_FRAME + 4 + EXCEPTION_FRAME);
    }

    #[test]
    fn a_function_that_calls_itself_is_refused() {
        assert!(graph(&[(0, 10), (10, 20), (20, 10)]).deepest().is_err());
    }
}
