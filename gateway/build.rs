//! Compiles the one C file: plugins log through a variadic function, which stable Rust cannot define.

fn main() {
    let source = "src/plugins/log.c";
    println!("cargo:rerun-if-changed={source}");
    cc::Build::new().file(source).warnings_into_errors(true).compile("tessera_plugin_log");
}
