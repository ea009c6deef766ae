//! `rpc`: which interfaces the nodes serve, what they look like, and calls without a program.

use std::collections::BTreeSet;
use std::path::PathBuf;

use pagemesh::NodeId;
use pagemesh::admin::{Admin, MemberStatus};
use pagemesh::rpc::dynamic::{Dynamic, DynamicError};
use pagemesh::rpc::{Channel, MetaClient, MetaDescribeError, Served};
use serde_json::{Value, json};

use crate::args::{RpcCall, RpcCommand};
use crate::out;
use crate::regions;
use crate::table::table;
use crate::trouble::{FAILED, Trouble};

/// Runs one of the commands.
pub(crate) fn run(state_dir: Option<PathBuf>, command: &RpcCommand) -> Result<i32, Trouble> {
    let admin = regions::connect(state_dir)?;
    match command {
        RpcCommand::Ls { node, json } => list(&admin, *node, *json),
        RpcCommand::Describe { interface, node, json } => describe(&admin, interface, *node, *json),
        RpcCommand::Call(call) => self::call(&admin, call),
    }
}

/// What one node serves, or why it does not answer.
struct Node {
    id: NodeId,
    name: String,
    interfaces: Result<Vec<Line>, String>,
}

/// One interface of one node, with the sums of its methods' counts since the node started.
struct Line {
    served: Served,
    calls: u64,
    failures: u64,
    busy: u64,
}

fn list(admin: &Admin, node: Option<u16>, json: bool) -> Result<i32, Trouble> {
    let members = admin.members()?;
    let listed = members.iter().filter(|member| node.is_none_or(|node| member.id.0 == node));
    // A node that does not answer is listed, and so are the others; all are asked at one time.
    let nodes: Vec<Node> = std::thread::scope(|scope| {
        let asked: Vec<_> = listed.map(|member| scope.spawn(|| ask(admin, member))).collect();
        asked.into_iter().map(|asked| asked.join().expect("it does not panic")).collect()
    });
    if let (Some(node), true) = (node, nodes.is_empty()) {
        return Err(no_member(node, &members));
    }
    if json {
        print(&nodes.iter().map(in_json).collect())?;
    } else {
        out::text(&in_a_table(&nodes))?;
    }
    Ok(if nodes.iter().all(|node| node.interfaces.is_ok()) { 0 } else { FAILED })
}

fn ask(admin: &Admin, member: &MemberStatus) -> Node {
    let meta = meta(admin, member).map_err(|trouble| trouble.to_string());
    let interfaces = meta.and_then(|meta| served(&meta).map_err(|error| error.to_string()));
    Node { id: member.id, name: member.name.clone(), interfaces }
}

fn served(meta: &MetaClient) -> Result<Vec<Line>, pagemesh::rpc::Error> {
    let (list, statistics) = (meta.list()?, meta.statistics()?);
    let line = |served: Served| {
        let mut line = Line { calls: 0, failures: 0, busy: 0, served };
        for method in &statistics {
            if method.method.split_once('.').is_some_and(|(interface, _)| interface == line.served.name) {
                line.calls += method.calls;
                line.failures += method.failures;
                line.busy += method.busy;
            }
        }
        line
    };
    Ok(list.into_iter().map(line).collect())
}

fn in_json(node: &Node) -> Value {
    let (id, name) = (node.id.0, &node.name);
    let interface = |line: &Line| {
        json!({
            "interface": line.served.name,
            "version": line.served.version,
            "hash": hash(line),
            "methods": line.served.methods,
            "calls": line.calls,
            "failures": line.failures,
            "busy": line.busy,
        })
    };
    match &node.interfaces {
        Ok(lines) => {
            let interfaces: Vec<Value> = lines.iter().map(interface).collect();
            json!({ "node": id, "name": name, "interfaces": interfaces })
        }
        Err(error) => json!({ "node": id, "name": name, "error": error }),
    }
}

fn in_a_table(nodes: &[Node]) -> String {
    let mut rows = Vec::new();
    let mut silent = String::new();
    for node in nodes {
        match &node.interfaces {
            Ok(lines) => rows.extend(lines.iter().map(|line| {
                let counts = [line.served.methods.len() as u64, line.calls, line.failures, line.busy];
                let (version, hash) = (line.served.version.to_string(), hash(line));
                let head =
                    [node.id.0.to_string(), node.name.clone(), line.served.name.clone(), version, hash];
                head.into_iter().chain(counts.map(|count| count.to_string())).collect()
            })),
            Err(error) => silent.push_str(&format!("node {} ({}): {error}\n", node.id.0, node.name)),
        }
    }
    let heading = ["NODE", "NAME", "INTERFACE", "VERSION", "HASH", "METHODS", "CALLS", "FAILED", "BUSY"];
    table(&heading, &rows) + &silent
}

fn hash(line: &Line) -> String {
    format!("{:016x}", line.served.hash)
}

fn describe(admin: &Admin, interface: &str, node: Option<u16>, json: bool) -> Result<i32, Trouble> {
    let channel = match node {
        Some(node) => channel_to(admin, node)?,
        // Interfaces of the system are in no directory: every node serves them, or the coordinator does.
        None => channel_to(admin, admin.servers(interface)?.first().map_or(0, |node| node.0))?,
    };
    let description = description(admin, &channel, interface)?;
    if json {
        return print(
            &serde_json::from_str(&description).map_err(|error| Trouble::failed(error.to_string()))?,
        );
    }
    let text = pagemesh_rpcgen::interface_file(&description)
        .map_err(|error| Trouble::failed(format!("{interface}: {error}; --json shows it as it is")))?;
    out::text(&text)?;
    Ok(0)
}

fn call(admin: &Admin, call: &RpcCall) -> Result<i32, Trouble> {
    let Some((interface, method)) = call.method.split_once('.') else {
        return Err(Trouble::start(format!("`{}` is not Interface.method", call.method)));
    };
    let arguments: Value = serde_json::from_str(&call.arguments)
        .map_err(|error| Trouble::start(format!("the arguments are not JSON: {error}")))?;
    let channel = channel_to(admin, call.node)?;
    let dynamic = Dynamic::new(&description(admin, &channel, interface)?).map_err(not_called)?;
    let channel = match call.deadline {
        Some(seconds) => channel.with_deadline(seconds),
        None => channel,
    };
    match dynamic.call(&channel, method, &arguments) {
        Ok(result) => print(&result),
        Err(DynamicError::Thrown(thrown)) => {
            print(&json!({ "thrown": thrown }))?;
            Ok(FAILED)
        }
        Err(DynamicError::Failed(error)) => Err(failed(error)),
        Err(error @ (DynamicError::TooMany | DynamicError::TooLarge | DynamicError::TooDeep)) => {
            Err(Trouble::failed(error.to_string()))
        }
        Err(
            error @ (DynamicError::Description(_) | DynamicError::NoMethod(_) | DynamicError::Arguments(_)),
        ) => Err(not_called(error)),
    }
}

fn meta(admin: &Admin, member: &MemberStatus) -> Result<MetaClient, Trouble> {
    Ok(MetaClient::new(admin.channel_to(member.id, member.addr)?))
}

fn channel_to(admin: &Admin, node: u16) -> Result<Channel, Trouble> {
    let members = admin.members()?;
    match members.iter().find(|member| member.id == NodeId(node)) {
        Some(member) => Ok(admin.channel_to(member.id, member.addr)?),
        None => Err(no_member(node, &members)),
    }
}

fn description(admin: &Admin, channel: &Channel, interface: &str) -> Result<String, Trouble> {
    MetaClient::new(channel.clone()).describe(interface).map_err(|error| match error {
        MetaDescribeError::NoSuchInterface(_) => {
            Trouble::start(format!("the node does not serve {interface}{}", hint(admin, interface)))
        }
        MetaDescribeError::Rpc(error) => failed(error),
    })
}

/// Who serves the interface, or what is served that has nearly this name, of all nodes that answer.
fn hint(admin: &Admin, interface: &str) -> String {
    let mut serving = Vec::new();
    let mut names = BTreeSet::new();
    for member in admin.members().unwrap_or_default() {
        let served = meta(admin, &member).ok().and_then(|meta| meta.list().ok()).unwrap_or_default();
        if served.iter().any(|served| served.name == interface) {
            serving.push(member.id.0.to_string());
        }
        names.extend(served.into_iter().map(|served| served.name));
    }
    if !serving.is_empty() {
        return format!("; these nodes do: {}", serving.join(", "));
    }
    let near = pagemesh::settings::nearest(interface, names.iter().map(String::as_str), interface.len() / 2);
    near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

fn no_member(node: u16, members: &[MemberStatus]) -> Trouble {
    let known: Vec<String> = members.iter().map(|member| member.id.0.to_string()).collect();
    Trouble::start(format!("there is no node {node}; there are: {}", known.join(", ")))
}

fn print(value: &Value) -> Result<i32, Trouble> {
    out::json(value)?;
    Ok(0)
}

fn failed(error: pagemesh::rpc::Error) -> Trouble {
    Trouble::failed(error.to_string())
}

fn not_called(error: DynamicError) -> Trouble {
    Trouble::start(error.to_string())
}
