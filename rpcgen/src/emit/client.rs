//! The client's side: one struct whose methods start calls and return at once, for futures, batches and
//! fan-out, and one whose methods wait.

use proc_macro2::{Literal, TokenStream};
use quote::quote;

use crate::names::{camel, identifier, shout};
use crate::schema::{Field, Interface, Method, Schema, Type};

use super::{docs, error_type, field_ident, is_copy, method_ident, result_args, types};

/// Names that the clients have themselves; a method of this name gets an underscore.
const OWN: [&str; 3] = ["new", "channel", "calls"];

pub(super) fn stubs(schema: &Schema, interface: &Interface) -> TokenStream {
    let calls = identifier(&format!("{}Calls", camel(&interface.name)));
    let client = identifier(&format!("{}Client", camel(&interface.name)));
    let constant = identifier(&shout(&interface.name));
    let calls_doc =
        format!(" Starts calls of `{}`; each returns a future that may also be waited for.", interface.name);
    let client_doc = format!(" Calls `{}` and waits for the answers.", interface.name);
    let starting = interface
        .methods
        .iter()
        .enumerate()
        .map(|(index, method)| starting_method(schema, interface, &constant, index, method));
    let waiting = interface.methods.iter().map(|method| waiting_method(schema, interface, method));
    quote! {
        #[doc = #calls_doc]
        #[derive(Clone, Debug)]
        pub struct #calls {
            channel: rpc::Channel,
        }

        impl #calls {
            /// Calls whoever serves the channel.
            pub fn new(channel: rpc::Channel) -> Self {
                Self { channel }
            }
            /// The way to the servers.
            pub fn channel(&self) -> &rpc::Channel {
                &self.channel
            }
            #(#starting)*
        }

        #[doc = #client_doc]
        #[derive(Clone, Debug)]
        pub struct #client {
            calls: #calls,
        }

        impl #client {
            /// Calls whoever serves the channel.
            pub fn new(channel: rpc::Channel) -> Self {
                Self { calls: #calls::new(channel) }
            }
            /// The same calls without the wait.
            pub fn calls(&self) -> &#calls {
                &self.calls
            }
            #(#waiting)*
        }
    }
}

fn client_ident(method: &Method) -> proc_macro2::Ident {
    let name = method_ident(method);
    if OWN.iter().any(|own| name == own) { identifier(&format!("{name}_")) } else { name }
}

fn parameters<'a>(schema: &'a Schema, method: &'a Method) -> impl Iterator<Item = TokenStream> + 'a {
    method.arguments.iter().map(|field| {
        let ident = field_ident(field);
        let ty = match &field.ty {
            Type::String => quote! { &str },
            Type::Bytes => quote! { &[u8] },
            Type::List(inner) => {
                let inner = types::rust(inner);
                quote! { &[#inner] }
            }
            copied if is_copy(schema, copied) => types::rust(copied),
            borrowed => {
                let ty = types::rust(borrowed);
                quote! { &#ty }
            }
        };
        quote! { #ident: #ty }
    })
}

fn write(schema: &Schema, field: &Field) -> TokenStream {
    let ident = field_ident(field);
    match &field.ty {
        Type::String => quote! { rpc::put_str(__call.arguments(), #ident); },
        Type::Bytes => quote! { rpc::put_bytes(__call.arguments(), #ident); },
        Type::List(_) => quote! { rpc::put_list(__call.arguments(), #ident); },
        copied if is_copy(schema, copied) => quote! { rpc::Wire::encode(&#ident, __call.arguments()); },
        _borrowed => quote! { rpc::Wire::encode(#ident, __call.arguments()); },
    }
}

fn starting_method(
    schema: &Schema,
    interface: &Interface,
    constant: &proc_macro2::Ident,
    index: usize,
    method: &Method,
) -> TokenStream {
    let doc = docs(&method.docs, &format!("Starts `{}`.", method.name));
    let name = client_ident(method);
    let parameters = parameters(schema, method);
    let index = Literal::usize_unsuffixed(index);
    let writes = method.arguments.iter().map(|field| write(schema, field));
    let near = match method.near {
        Some(position) => {
            let ident = field_ident(&method.arguments[position]);
            quote! { __call.near(#ident.addr()); }
        }
        None => quote! {},
    };
    let changed = if method.near.is_some() || !method.arguments.is_empty() {
        quote! { mut }
    } else {
        quote! {}
    };
    let result = result_args(interface, method);
    let (returns, start) = match method.kind {
        "oneway" => (quote! { Result<(), rpc::Error> }, quote! { notify }),
        "stream" => (quote! { rpc::Streaming<#result> }, quote! { stream }),
        _unary => (quote! { rpc::Call<#result> }, quote! { start }),
    };
    quote! {
        #doc
        pub fn #name(&self, #(#parameters),*) -> #returns {
            let #changed __call = self.channel.prepare(&#constant.methods[#index]);
            #near
            #(#writes)*
            __call.#start()
        }
    }
}

fn waiting_method(schema: &Schema, interface: &Interface, method: &Method) -> TokenStream {
    let doc = docs(&method.docs, &format!("Calls `{}`.", method.name));
    let name = client_ident(method);
    let parameters = parameters(schema, method);
    let idents = method.arguments.iter().map(field_ident);
    let result = result_args(interface, method);
    let (returns, wait) = match method.kind {
        "oneway" => (quote! { Result<(), rpc::Error> }, quote! {}),
        "stream" => (quote! { rpc::Streaming<#result> }, quote! {}),
        _unary => {
            let returns = types::rust(&method.returns);
            let error = error_type(interface, method);
            (quote! { Result<#returns, #error> }, quote! { .wait() })
        }
    };
    quote! {
        #doc
        pub fn #name(&self, #(#parameters),*) -> #returns {
            self.calls.#name(#(#idents),*)#wait
        }
    }
}
