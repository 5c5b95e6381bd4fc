//! `cargo xtask size`: flash, RAM, arena and stack against each board's budget.
use anyhow::{Result, bail};
use clap::Args;
use gsacp_core::plan::{Element, plan_apart};

use crate::board::{BOARDS, Board, FrameSize, SMALL};
use crate::call_graph::Deepest;
use crate::firmware::Firmware;
use crate::{host, plan_map};

/// Flash of a common Cortex-M7 that firmware and the quarter model must fit, bytes.
const FLASH_BUDGET: u64 = 512 << 10;

/// Print what each firmware takes of flash, RAM, arena and stack; fail over the board's budget.
#[derive(Args)]
pub struct Size {
    /// Only this board.
    #[arg(long, value_parser = crate::board::parse)]
    pub(crate) board: Option<&'static Board>,
    /// Draw the whole memory plan: the arena from left to right, node after node from top to bottom.
    #[arg(long)]
    pub(crate) map: bool,
    /// Width and height of the firmware's frames: 160x128 or 640x512.
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = crate::board::parse_size, default_value_t = SMALL)]
    pub(crate) size: FrameSize,
}

impl Size {
    /// Measures, prints, and compares with the budgets.
    pub fn run(self) -> Result<()> {
        let mut over = Vec::new();
        show_plan(self.map, self.size)?;
        for board in BOARDS.iter().filter(|b| self.board.is_none_or(|chosen| chosen == *b)) {
            report(board, self.size, &mut over)?;
        }
        if !over.is_empty() {
            bail!("over budget or forbidden: {}", over.join("; "));
        }
        Ok(())
    }
}

/// The plan of the boards' arena against its lower bound, and what is alive where it is fullest.
fn show_plan(map: bool, size: FrameSize) -> Result<()> {
    let graph = host::graph();
    let plan = size.plan(&graph)?;
    let whole = plan_apart(&graph, size.height.into(), size.width.into(), Element::Int8)?;
    let (buffers, arena, bound) = (plan_map::buffers(&graph, &plan), plan.arena_len, plan.live_bound);
    println!("memory plan of the quarter network, {size}");
    println!("  {arena:>8} bytes of arena; {bound} are alive at one time, the least that any placement needs");
    println!("  {:>8} would be alive at one time if every map were whole", whole.live_bound);
    if map {
        print!("{}", plan_map::picture(&graph, &plan));
        return Ok(());
    }
    let peak = plan_map::peak(&graph, &buffers);
    println!(
        "  {}  at {}, where it is fullest (--map draws all)",
        plan_map::line(&plan, &buffers, peak),
        graph.nodes()[peak].label
    );
    for buffer in plan_map::alive(&buffers, peak) {
        println!("  {}", plan_map::describe(&graph, buffer));
    }
    Ok(())
}

fn report(board: &Board, size: FrameSize, over: &mut Vec<String>) -> Result<()> {
    let firmware = Firmware::read(&board.build(size)?)?;
    let sizes = firmware.sizes()?;
    let image = gsacp_core::image::image_len(&host::graph()) as u64;
    println!("{} ({})", board.name, board.core);
    let rows = [
        ("flash, without the model", sizes.flash, board.flash_budget),
        ("flash, with the model", sizes.flash + image, FLASH_BUDGET),
        ("arena", sizes.arena, board.arena_budget * size.times_small()),
        ("other static RAM", sizes.ram.saturating_sub(sizes.arena), board.ram_budget * size.times_small()),
    ];
    for (what, bytes, budget) in rows {
        let verdict = if bytes <= budget { "" } else { "  OVER" };
        println!("  {what:<26} {bytes:>8} of {budget:>8} bytes{verdict}");
        if bytes > budget {
            over.push(format!("{}: {what}", board.name));
        }
    }
    let forbidden = firmware.forbidden_symbols()?;
    println!(
        "  allocator, panic symbols   {}",
        if forbidden.is_empty() { "none".to_owned() } else { forbidden.join(", ") }
    );
    over.extend(forbidden.iter().map(|symbol| format!("{}: {symbol}", board.name)));

    let Deepest { bytes, chain } = Firmware::read(&board.build_with_stack_sizes(size)?)?.deepest_stack()?;
    println!("  the deepest chain of calls:");
    for (name, frame) in chain {
        println!("  {frame:>8}  {name}");
    }
    let reserved = firmware.reserved_stack()?;
    println!(
        "  {bytes:>8}  bytes of stack at most, exceptions included; budget {}, reserved {reserved}",
        board.stack_budget
    );
    if bytes > board.stack_budget || board.stack_budget > reserved {
        over.push(format!("{}: {bytes} bytes of stack, {reserved} reserved", board.name));
    }
    Ok(())
}
