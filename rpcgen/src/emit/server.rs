//! The server's side: the trait to implement, the errors that methods throw, and the dispatcher.

use proc_macro2::{Literal, TokenStream};
use quote::quote;

use crate::names::{camel, identifier, shout};
use crate::schema::{Field, Interface, Method, Schema, Type};

use super::{docs, error_type, field_ident, method_ident, types};

pub(super) fn stubs(schema: &Schema, interface: &Interface) -> TokenStream {
    let doc =
        docs(&interface.docs, &format!("The interface `{}`, for a server to implement.", interface.name));
    let name = identifier(&camel(&interface.name));
    let errors = interface
        .methods
        .iter()
        .filter(|method| !method.throws.is_empty())
        .map(|method| error_enum(interface, method));
    let methods = interface.methods.iter().map(|method| signature(interface, method));
    let server = dispatcher(schema, interface);
    quote! {
        #doc
        pub trait #name: Send + Sync + 'static {
            #(#methods)*
        }
        #(#errors)*
        #server
    }
}

/// The name of a parameter that the generator adds; an argument of the same name goes first.
fn added(method: &Method, name: &str) -> proc_macro2::Ident {
    let taken = method.arguments.iter().any(|field| field_ident(field) == name);
    if taken { identifier(&format!("__{name}")) } else { identifier(name) }
}

fn signature(interface: &Interface, method: &Method) -> TokenStream {
    let doc = docs(&method.docs, &format!("The method `{}`.", method.name));
    let name = method_ident(method);
    let context = added(method, "context");
    let arguments = method.arguments.iter().map(|field| {
        let (ident, ty) = (field_ident(field), argument_type(&field.ty));
        quote! { #ident: #ty }
    });
    let error = error_type(interface, method);
    let returns = types::rust(&method.returns);
    match method.kind {
        "oneway" => quote! { #doc fn #name(&self, #context: &rpc::Context<'_>, #(#arguments),*); },
        "stream" => {
            let sink = added(method, "sink");
            quote! {
                #doc
                fn #name(
                    &self, #context: &rpc::Context<'_>, #(#arguments,)* #sink: &mut rpc::Sink<'_, #returns>
                ) -> Result<(), #error>;
            }
        }
        _unary => quote! {
            #doc
            fn #name(&self, #context: &rpc::Context<'_>, #(#arguments),*) -> Result<#returns, #error>;
        },
    }
}

/// Texts and bytes stay in the message that they came in; the rest is owned.
fn argument_type(ty: &Type) -> TokenStream {
    match ty {
        Type::String => quote! { &str },
        Type::Bytes => quote! { &[u8] },
        other => types::rust(other),
    }
}

fn error_enum(interface: &Interface, method: &Method) -> TokenStream {
    let doc = format!(" Why `{}` failed.", method.name);
    let name = error_type(interface, method);
    let thrown: Vec<_> = method.throws.iter().map(|thrown| identifier(&camel(thrown))).collect();
    let thrown_docs: Vec<_> =
        method.throws.iter().map(|thrown| format!(" The method threw `{thrown}`.")).collect();
    let tags: Vec<_> = (0..thrown.len()).map(Literal::usize_unsuffixed).collect();
    quote! {
        #[doc = #doc]
        #[derive(Clone, PartialEq)]
        pub enum #name {
            #(#[doc = #thrown_docs] #thrown(#thrown),)*
            /// The call itself failed.
            Rpc(rpc::Error),
        }

        #(impl From<#thrown> for #name {
            fn from(thrown: #thrown) -> Self {
                Self::#thrown(thrown)
            }
        })*

        impl From<rpc::Error> for #name {
            fn from(error: rpc::Error) -> Self {
                Self::Rpc(error)
            }
        }

        impl std::fmt::Display for #name {
            fn fmt(&self, __f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    #(Self::#thrown(__thrown) => write!(__f, "{__thrown:?}"),)*
                    Self::Rpc(__error) => __error.fmt(__f),
                }
            }
        }

        impl std::fmt::Debug for #name {
            fn fmt(&self, __f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, __f)
            }
        }

        impl std::error::Error for #name {}

        impl From<#name> for pagemesh::Error {
            fn from(error: #name) -> Self {
                pagemesh::Error::call(error)
            }
        }

        impl rpc::MethodError for #name {
            fn encode_thrown(&self, __out: &mut Vec<u8>) -> Option<&rpc::Error> {
                match self {
                    #(Self::#thrown(__thrown) => rpc::put_variant(__out, #tags, __thrown),)*
                    Self::Rpc(__error) => return Some(__error),
                }
                None
            }
            fn decode_thrown(__from: &mut rpc::Decoder<'_>) -> Result<Self, rpc::DecodeError> {
                match __from.variant()? {
                    #(#tags => Ok(Self::#thrown(rpc::Wire::decode(__from)?)),)*
                    _ => Err(rpc::DecodeError::Bad("thrown type")),
                }
            }
        }
    }
}

fn dispatcher(_schema: &Schema, interface: &Interface) -> TokenStream {
    let name = identifier(&camel(&interface.name));
    let server = identifier(&format!("{}Server", camel(&interface.name)));
    let constant = identifier(&shout(&interface.name));
    let doc = format!(" Serves `{}` with an implementation of its trait.", interface.name);
    let arms = interface.methods.iter().enumerate().map(|(index, method)| {
        let index = Literal::usize_unsuffixed(index);
        let body = arm(method);
        quote! { #index => { #body } }
    });
    quote! {
        #[doc = #doc]
        #[derive(Clone, Debug)]
        pub struct #server<S>(pub S);

        impl<S: #name> rpc::Service for #server<S> {
            fn interface(&self) -> &'static rpc::Interface {
                &#constant
            }
            fn dispatch(
                &self, __method: usize, __context: &rpc::Context<'_>, __from: &mut rpc::Decoder<'_>,
                __reply: &mut rpc::Reply<'_>,
            ) -> Result<(), rpc::DecodeError> {
                match __method {
                    #(#arms)*
                    _ => return Err(rpc::DecodeError::Bad("method")),
                }
                Ok(())
            }
        }
    }
}

fn arm(method: &Method) -> TokenStream {
    let name = method_ident(method);
    let idents: Vec<_> = method.arguments.iter().map(field_ident).collect();
    let reads = method.arguments.iter().zip(&idents).map(|(field, ident)| {
        let read = argument_read(field);
        quote! { let #ident = #read; }
    });
    let call = match method.kind {
        "oneway" => quote! { self.0.#name(__context, #(#idents),*); },
        "stream" => quote! {
            let mut __sink = rpc::Sink::new(__context);
            __reply.end(self.0.#name(__context, #(#idents,)* &mut __sink), &__sink);
        },
        _unary => quote! { __reply.answer(self.0.#name(__context, #(#idents),*)); },
    };
    quote! {
        #(#reads)*
        __from.finish()?;
        #call
    }
}

fn argument_read(field: &Field) -> TokenStream {
    match &field.ty {
        Type::String => quote! { __from.str()? },
        Type::Bytes => quote! { __from.bytes()? },
        _owned => quote! { rpc::Wire::decode(__from)? },
    }
}
