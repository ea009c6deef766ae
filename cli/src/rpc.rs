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
use crate::trouble::{FAILED, Trouble};

/// Runs one of the commands; every answer is JSON.
pub(crate) fn run(state_dir: Option<PathBuf>, command: &RpcCommand) -> Result<i32, Trouble> {
    let admin = regions::connect(state_dir)?;
    match command {
        RpcCommand::Ls { node } => list(&admin, *node),
        RpcCommand::Describe { interface, node } => describe(&admin, interface, *node),
        RpcCommand::Call(call) => self::call(&admin, call),
    }
}

fn list(admin: &Admin, node: Option<u16>) -> Result<i32, Trouble> {
    let members = admin.members()?;
    let (mut lines, mut code) = (Vec::new(), 0);
    for member in members.iter().filter(|member| node.is_none_or(|node| member.id.0 == node)) {
        let meta = meta(admin, member)?;
        let served = match meta.list() {
            Ok(served) => served,
            Err(error) => {
                // The others are shown all the same.
                lines.push(json!({ "node": member.id.0, "name": member.name, "error": error.to_string() }));
                code = FAILED;
                continue;
            }
        };
        let interface = |served: Served| {
            json!({
                "interface": served.name,
                "version": served.version,
                "hash": format!("{:#018x}", served.hash),
                "methods": served.methods,
            })
        };
        let interfaces: Vec<Value> = served.into_iter().map(interface).collect();
        lines.push(json!({ "node": member.id.0, "name": member.name, "interfaces": interfaces }));
    }
    if let (Some(node), true) = (node, lines.is_empty()) {
        return Err(no_member(node, &members));
    }
    print(&Value::Array(lines))?;
    Ok(code)
}

fn describe(admin: &Admin, interface: &str, node: Option<u16>) -> Result<i32, Trouble> {
    let channel = match node {
        Some(node) => channel_to(admin, node)?,
        // What is not in the directory every node serves, or the coordinator.
        None => channel_to(admin, admin.servers(interface)?.first().map_or(0, |node| node.0))?,
    };
    let description = description(admin, &channel, interface)?;
    print(&serde_json::from_str(&description).map_err(|error| Trouble::failed(error.to_string()))?)
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
