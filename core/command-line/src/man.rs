//! The command `man`: a manual page for the program and for each command (man-pages(7)).

use std::{fs, io, path::PathBuf};

use clap::{Arg, ArgAction, Args, builder::PossibleValuesParser};
use clap_mangen::{
    Man,
    roff::{Inline, Roff, bold, italic, roman},
};

use crate::{
    CommandError,
    definition::definition,
    help::{self, Section},
    output,
};

/// Writes the manual page of a command
///
/// To read it: `PROGRAM man echo-server | man -l -`.
#[derive(Args, Debug)]
pub(super) struct ManFlags {
    /// The command [default: the page lists all commands]
    #[arg(value_name = "COMMAND", value_parser = PossibleValuesParser::new(help::commands()))]
    command: Option<String>,
    /// Write all pages into this folder, for example /usr/local/share/man/man1
    #[arg(long, value_name = "FOLDER", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

pub(super) fn man(program: &'static str, flags: &ManFlags) -> Result<(), CommandError> {
    let mut all = definition(program).disable_help_subcommand(true);
    // Gives each command its full name, and the flags that all commands have.
    all.build();
    let commands = || [&all].into_iter().chain(all.get_subcommands());
    if let Some(dir) = &flags.dir {
        fs::create_dir_all(dir)
            .map_err(|error| CommandError::WritePage { path: dir.clone(), error })?;
        for command in commands() {
            let path = dir.join(format!("{}.1", title(command)));
            page(program, &all, command)
                .and_then(|page| fs::write(&path, page))
                .map_err(|error| CommandError::WritePage { path, error })?;
        }
        return Ok(());
    }
    let command = flags.command.as_ref().and_then(|name| all.find_subcommand(name));
    let page = page(program, &all, command.unwrap_or(&all)).map_err(CommandError::Output)?;
    output::write(&page)
}

/// The title of a command's page: `wirestate-tokio-echo-server`.
fn title(command: &clap::Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// The page of `command`, which is `all` or one of its commands, in the language man(7).
fn page(program: &str, all: &clap::Command, command: &clap::Command) -> io::Result<Vec<u8>> {
    let is_program = title(command) == title(all);
    let source = format!("Wirestate {}", command.get_version().unwrap_or_default());
    // ENVIRONMENT has the variables.
    let described = command.clone().mut_args(|arg| arg.hide_env(true));
    let man = Man::new(described.subcommand_help_heading("COMMANDS"));
    let man = man.date(DATE).source(source).manual("Wirestate");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    synopsis(command).to_writer(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if is_program {
        man.render_subcommands_section(&mut text)?;
    }
    let name = if is_program { "" } else { command.get_name() };
    let sections = help::sections(program, name);
    let mut terms = sections.iter().flat_map(|section| &section.entries).map(|(term, _)| term);
    let inherits_sockets = terms.any(|term| term.starts_with("LISTEN_FDS"));
    let mut end = Roff::new();
    for Section { title, entries } in sections {
        end.control("SH", [title.to_uppercase().as_str()]);
        for (term, explanation) in entries {
            if term == help::VARIABLES {
                variables(&mut end, command);
            } else {
                end.control("TP", []).text([bold(term)]);
            }
            end.text([roman(explanation)]);
        }
    }
    end.control("SH", ["SEE ALSO"]).text(see_also(all, command, inherits_sockets));
    end.to_writer(&mut text)?;
    // Values of a flag follow two line breaks, of which an empty line ignores one.
    Ok(String::from_utf8_lossy(&text).replace("\n.br\n\n.br\n", "\n.br\n").into())
}

/// The synopsis, with the value of each flag.
fn synopsis(command: &clap::Command) -> Roff {
    let mut line = vec![bold(command.get_bin_name().unwrap_or_else(|| command.get_name()))];
    let arguments = || command.get_arguments().filter(|arg| !arg.is_hide_set());
    for arg in arguments().filter(|arg| !arg.is_positional()) {
        line.extend(bracketed(arg, flag(arg)));
    }
    for arg in arguments().filter(|arg| arg.is_positional()) {
        line.extend(bracketed(arg, value(arg).collect()));
    }
    if command.has_subcommands() {
        line.extend([roman(" "), italic("COMMAND")]);
    }
    let mut synopsis = Roff::new();
    synopsis.control("SH", ["SYNOPSIS"]).text(line);
    synopsis
}

/// In brackets if it can be left out; with an ellipsis if it can be given several times.
fn bracketed(arg: &Arg, content: Vec<Inline>) -> Vec<Inline> {
    let (open, close) = if arg.is_required_set() { (" ", "") } else { (" [", "]") };
    let is_repeatable = matches!(arg.get_action(), ArgAction::Append | ArgAction::Count);
    let ellipsis = if is_repeatable { "..." } else { "" };
    [vec![roman(open)], content, vec![roman(close), roman(ellipsis)]].concat()
}

/// The names of a flag, and its value.
fn flag(arg: &Arg) -> Vec<Inline> {
    let short = arg.get_short().map(|short| bold(format!("-{short}")));
    let long = arg.get_long().map(|long| bold(format!("--{long}")));
    let separator = short.as_ref().and(long.as_ref()).map(|_| roman("|"));
    let names = [short, separator, long].into_iter().flatten();
    names.chain(value(arg).flat_map(|value| [roman(" "), value])).collect()
}

/// The name of a flag's value, if it has one.
fn value(arg: &Arg) -> impl Iterator<Item = Inline> {
    let has_value = arg.get_num_args().is_none_or(|count| count.takes_values());
    let names = arg.get_value_names().filter(|_| has_value).unwrap_or_default();
    names.iter().map(|name| italic(name.as_str()))
}

/// The variables of the command's flags, each with its flag.
fn variables(roff: &mut Roff, command: &clap::Command) {
    let flags = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let variables = flags.filter_map(|arg| Some((arg.get_env()?, arg.get_long()?)));
    for (index, (variable, flag)) in variables.enumerate() {
        // The terms share one explanation.
        roff.control(if index == 0 { "TP" } else { "TQ" }, []);
        let variable = variable.to_string_lossy().into_owned();
        roff.text([bold(variable), roman(" ("), bold(format!("--{flag}")), roman(")")]);
    }
}

/// The pages of related commands: of the program, and of commands whose names begin alike.
/// Also that of systemd's sockets if it `inherits_sockets`.
fn see_also(all: &clap::Command, command: &clap::Command, inherits_sockets: bool) -> Vec<Inline> {
    let family = |command: &clap::Command| command.get_name().split('-').next().map(str::to_owned);
    let is_program = title(command) == title(all);
    let related = all.get_subcommands().filter(|other| {
        title(other) != title(command) && (is_program || family(other) == family(command))
    });
    let program = Some(all).filter(|_| !is_program);
    let pages = program.into_iter().chain(related).map(|command| (title(command), "1"));
    let service_manager = inherits_sockets.then_some(("systemd.socket", "5"));
    let mut line = Vec::new();
    for (title, section) in pages.chain(service_manager) {
        let separator = if line.is_empty() { "" } else { ", " };
        line.extend([roman(separator), bold(title), roman(format!("({section})"))]);
    }
    line
}

/// The date in each page. Change it when the content of the pages changes.
const DATE: &str = "2026-11-30";
