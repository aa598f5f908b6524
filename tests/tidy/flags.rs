//! Flags and configuration keys, each documented.

use std::collections::{BTreeMap, BTreeSet};

use clap::CommandFactory;
use tlsidecar::commands::flags::Cli;

use super::{first_column, read};

#[test]
fn every_flag_is_documented_with_its_environment_twin() {
    let page = read("docs/configuration.md");
    let command = Cli::command();
    let flags: Vec<_> =
        command.get_arguments().filter_map(|a| a.get_long().zip(a.get_env())).collect();
    assert!(flags.len() > 5);
    for (flag, twin) in flags {
        let rows = [format!("| `--{flag} "), format!("| `--{flag}`")];
        let line = page.lines().find(|line| rows.iter().any(|row| line.starts_with(row)));
        let line = line.unwrap_or_else(|| panic!("--{flag} is not documented"));
        assert!(line.contains(&format!("`{}`", twin.to_str().unwrap())), "{line}");
        assert_eq!(
            twin.to_str().unwrap(),
            format!("TLSIDECAR_{}", flag.to_uppercase().replace('-', "_"))
        );
    }
}

#[test]
fn every_flag_of_a_command_is_documented() {
    let page = read("docs/configuration.md");
    let mut checked = 0;
    for command in Cli::command().get_subcommands() {
        let usage = format!("\n- `tlsidecar {}", command.get_name());
        let line = page.split(&usage).nth(1).unwrap_or_else(|| panic!("{usage}"));
        let line = line.lines().next().unwrap();
        for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(line.contains(&format!("--{flag}")), "--{flag} is not in {usage}{line}");
            checked += 1;
        }
    }
    assert!(checked > 5);
    for (page, section, command) in
        [("docs/configuration.md", "## The demo", "demo"), ("docs/probe.md", "## Flags", "probe")]
    {
        let page = read(page);
        let section = page.split(section).nth(1).unwrap().split("\n## ").next().unwrap();
        let all = Cli::command();
        let flags = all.find_subcommand(command).unwrap().get_arguments();
        let flags: BTreeSet<_> = flags.filter_map(clap::Arg::get_long).collect();
        let documented = first_column(section);
        let documented = documented.iter().map(|flag| flag[2..].split(' ').next().unwrap());
        assert_eq!(documented.collect::<BTreeSet<_>>(), flags, "{command}");
    }
}

/// Returns the keys of the sections in `config/file/sections.rs`, by the names of their types.
fn sections() -> BTreeMap<String, Vec<String>> {
    let file = syn::parse_file(&read("src/config/file/sections.rs")).unwrap();
    let structs = file
        .items
        .iter()
        .filter_map(|item| if let syn::Item::Struct(item) = item { Some(item) } else { None });
    let keys = |item: &syn::ItemStruct| {
        item.fields.iter().map(|field| field.ident.as_ref().unwrap().to_string()).collect()
    };
    structs.map(|item| (item.ident.to_string(), keys(item))).collect()
}

#[test]
fn every_key_of_the_configuration_is_documented() {
    let page = read("docs/configuration.md");
    let sections = sections();
    assert!(sections.len() > 8);
    for (section, keys) in sections {
        for key in keys {
            let said = [
                format!("\n{key} ="),
                format!("\n# {key} ="),
                format!("[{key}]"),
                format!(".{key}]"),
                format!("{{ {key} ="),
                format!(", {key} ="),
            ];
            let said = said.iter().any(|form| page.contains(form));
            assert!(said, "{section}.{key} is not in docs/configuration.md");
        }
    }
}
