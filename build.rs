//! Compiles the protos without a system protoc, lists the files of the demo bundle for the server binary, and compiles kernels of
//! the GPU.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(feature = "client")]
    clients()?;
    #[cfg(feature = "serve")]
    {
        services()?;
        demo_files()?;
    }
    #[cfg(feature = "cuda")]
    kernels()?;
    Ok(())
}

/// Writes `ptx.rs`, which holds the kernels for the card that `CUDA_COMPUTE_CAP` names, as candle's own.
#[cfg(feature = "cuda")]
fn kernels() -> Result<(), Box<dyn std::error::Error>> {
    // What a kernel includes is a change of the kernel.
    let builder = cudaforge::KernelBuilder::new().source_dir("src/model/cuda").watch(["src/model/cuda"]);
    let compiled = builder.args(["-std=c++17", "-O3"]).build_ptx()?;
    compiled.write(out_dir()?.join("ptx.rs"))?;
    Ok(())
}

#[cfg(feature = "client")]
const PUBLIC_PROTOS: [&str; 3] =
    ["newshound/v1/query_generation.proto", "newshound/v1/feedback.proto", "newshound/v1/reader.proto"];
#[cfg(feature = "client")]
const ADMIN_PROTOS: [&str; 1] = ["newshound/admin/v1/admin.proto"];

#[cfg(feature = "client")]
fn compiled(files: &[&str]) -> Result<protox::Compiler, protox::Error> {
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(files)?;
    Ok(compiler)
}

/// Generates messages and clients in `clients/`.
#[cfg(feature = "client")]
fn clients() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = compiled(&[&PUBLIC_PROTOS[..], &ADMIN_PROTOS].concat())?.file_descriptor_set();
    let out_dir = out_dir()?.join("clients");
    std::fs::create_dir_all(&out_dir)?;
    tonic_prost_build::configure().build_server(false).out_dir(out_dir).compile_fds(files)?;
    Ok(())
}

/// Generates services in `services/`, and the descriptor sets that reflection serves, one for each port.
#[cfg(feature = "serve")]
fn services() -> Result<(), Box<dyn std::error::Error>> {
    for (files, descriptors) in [
        (&PUBLIC_PROTOS[..], "newshound_descriptors.bin"),
        (&ADMIN_PROTOS, "newshound_admin_descriptors.bin"),
    ] {
        std::fs::write(out_dir()?.join(descriptors), compiled(files)?.encode_file_descriptor_set())?;
    }
    let files = compiled(&[&PUBLIC_PROTOS[..], &ADMIN_PROTOS].concat())?.file_descriptor_set();
    let out_dir = out_dir()?.join("services");
    std::fs::create_dir_all(&out_dir)?;
    // Our codec says INVALID_ARGUMENT where the library's says INTERNAL.
    tonic_prost_build::configure()
        .build_client(false)
        .codec_path("crate::serve::rpc::codec::Codec")
        .extern_path(".newshound", "crate::client::proto::newshound")
        .out_dir(out_dir)
        .compile_fds(files)?;
    Ok(())
}

/// Writes `BUNDLE` (what deploy/demo/manifest.json names, and itself) and `DATA` (the rest), each as `[(name, bytes)]`; both are
/// empty where there is no demo.
#[cfg(feature = "serve")]
fn demo_files() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=deploy/demo");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/demo");
    let mut files = Vec::new();
    if folder.is_dir() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                files.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
            }
        }
    }
    files.sort();
    let manifest = std::fs::read_to_string(folder.join("manifest.json")).unwrap_or_default();
    let (bundle, data): (Vec<_>, Vec<_>) = files
        .iter()
        .partition(|(name, _)| name == "manifest.json" || manifest.contains(&format!("\"{name}\"")));
    let list = |name: &str, files: &[&(String, std::path::PathBuf)]| {
        let rows: String =
            files.iter().map(|(name, path)| format!("    ({name:?}, include_bytes!({path:?})),\n")).collect();
        format!("pub(super) static {name}: &[(&str, &[u8])] = &[\n{rows}];\n")
    };
    let source = list("BUNDLE", &bundle) + &list("DATA", &data);
    std::fs::write(out_dir()?.join("demo_files.rs"), source)?;
    Ok(())
}

#[cfg(any(feature = "client", feature = "cuda"))]
fn out_dir() -> Result<std::path::PathBuf, Box<dyn std::error::Error>> {
    Ok(std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is set by cargo")?))
}
