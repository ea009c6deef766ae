//! Enums, structs and unions, and how they are written to and read from the wire.

use proc_macro2::{Literal, TokenStream};
use quote::quote;

use crate::cycles::Cycles;
use crate::names::{camel, identifier};
use crate::schema::{Field, Shape, Type, TypeDef, Variant};

use super::{docs, field_ident};

/// The Rust type of a value.
pub(super) fn rust(ty: &Type) -> TokenStream {
    match ty {
        Type::Void => quote! { () },
        Type::Bool => quote! { bool },
        Type::I8 => quote! { i8 },
        Type::I16 => quote! { i16 },
        Type::I32 => quote! { i32 },
        Type::I64 => quote! { i64 },
        Type::U8 => quote! { u8 },
        Type::U16 => quote! { u16 },
        Type::U32 => quote! { u32 },
        Type::U64 => quote! { u64 },
        Type::F32 => quote! { f32 },
        Type::F64 => quote! { f64 },
        Type::String => quote! { String },
        Type::Bytes => quote! { Vec<u8> },
        Type::Named(name) => {
            let name = identifier(&camel(name));
            quote! { #name }
        }
        Type::Array(inner, len) => {
            let (inner, len) = (rust(inner), Literal::u32_unsuffixed(*len));
            quote! { [#inner; #len] }
        }
        Type::List(inner) => {
            let inner = rust(inner);
            quote! { Vec<#inner> }
        }
        Type::Map(key, value) => {
            let (key, value) = (rust(key), rust(value));
            quote! { std::collections::BTreeMap<#key, #value> }
        }
        Type::Optional(inner) => {
            let inner = rust(inner);
            quote! { Option<#inner> }
        }
        Type::Global(inner) => {
            // The reference carries its length, so `T`, `T[4]` and `T[]` are one type.
            let element = match &**inner {
                Type::List(element) | Type::Array(element, _) => rust(element),
                single => rust(single),
            };
            quote! { rpc::Global<#element> }
        }
    }
}

pub(super) fn definition(cycles: &Cycles<'_>, name: &str, def: &TypeDef) -> TokenStream {
    match &def.shape {
        Shape::Enum(variants) => enumeration(name, def, variants),
        Shape::Struct(fields) => structure(cycles, name, def, fields),
        Shape::Union(fields) => union(cycles, name, def, fields),
    }
}

/// The type of a field of `owner`; an optional that leads back to its owner is boxed.
fn field_type(cycles: &Cycles<'_>, owner: &str, ty: &Type) -> TokenStream {
    if let Type::Optional(inner) = ty {
        let mut part = &**inner;
        while let Type::Array(next, _) | Type::Optional(next) = part {
            part = next;
        }
        if let Type::Named(name) = part
            && cycles.share_a_cycle(name, owner)
        {
            let inner = rust(inner);
            return quote! { Option<Box<#inner>> };
        }
    }
    rust(ty)
}

fn enumeration(name: &str, def: &TypeDef, variants: &[Variant]) -> TokenStream {
    let doc = docs(&def.docs, &format!("The enum `{name}`."));
    let ident = identifier(&camel(name));
    let names: Vec<_> = variants.iter().map(|variant| identifier(&camel(&variant.name))).collect();
    let values: Vec<_> = variants.iter().map(|variant| Literal::i32_unsuffixed(variant.value)).collect();
    let variant_docs = variants.iter().map(|variant| docs(&variant.docs, &format!("`{}`", variant.name)));
    let bad = camel(name);
    quote! {
        #doc
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i32)]
        pub enum #ident {
            #(#variant_docs #names = #values,)*
        }

        impl rpc::Wire for #ident {
            const SHAPE: rpc::Shape = rpc::Shape::Four;
            fn encode(&self, __out: &mut Vec<u8>) {
                rpc::Wire::encode(&(*self as i32), __out);
            }
            fn decode(__from: &mut rpc::Decoder<'_>) -> Result<Self, rpc::DecodeError> {
                match <i32 as rpc::Wire>::decode(__from)? {
                    #(#values => Ok(Self::#names),)*
                    _ => Err(rpc::DecodeError::Bad(#bad)),
                }
            }
        }
    }
}

fn structure(cycles: &Cycles<'_>, name: &str, def: &TypeDef, fields: &[Field]) -> TokenStream {
    let doc = docs(&def.docs, &format!("The struct `{name}`."));
    let ident = identifier(&camel(name));
    let field_docs = fields.iter().map(|field| docs(&field.docs, &format!("The field `{}`.", field.name)));
    let idents: Vec<_> = fields.iter().map(field_ident).collect();
    let types: Vec<_> = fields.iter().map(|field| field_type(cycles, name, &field.ty)).collect();
    let ids: Vec<_> = fields.iter().map(|field| Literal::u16_unsuffixed(field.id)).collect();
    let writes = fields.iter().zip(&idents).zip(&ids).map(|((field, ident), id)| match &field.ty {
        Type::Optional(_) => quote! {
            if let Some(__value) = &self.#ident {
                rpc::put_field(__out, #id, __value);
            }
        },
        _required => quote! { rpc::put_field(__out, #id, &self.#ident); },
    });
    let takes = fields.iter().zip(&idents).map(|(field, ident)| match &field.ty {
        Type::Optional(_) => quote! { #ident },
        _required => {
            let missing = format!("{name}: no {}", field.name);
            quote! { #ident: #ident.ok_or(rpc::DecodeError::Bad(#missing))? }
        }
    });
    let read = if fields.is_empty() {
        quote! { __from.skip(__field)?; }
    } else {
        quote! {
            match __field.id() {
                #(#ids => #idents = Some(__from.value(__field)?),)*
                _ => __from.skip(__field)?,
            }
        }
    };
    quote! {
        #doc
        #[derive(Clone, Debug, PartialEq)]
        pub struct #ident {
            #(#field_docs pub #idents: #types,)*
        }

        impl rpc::Wire for #ident {
            const SHAPE: rpc::Shape = rpc::Shape::Framed;
            fn encode(&self, __out: &mut Vec<u8>) {
                let __frame = rpc::begin_frame(__out);
                #(#writes)*
                rpc::end_frame(__out, __frame);
            }
            fn decode(__from: &mut rpc::Decoder<'_>) -> Result<Self, rpc::DecodeError> {
                let __outside = __from.enter()?;
                #(let mut #idents = None;)*
                while let Some(__field) = __from.field()? {
                    #read
                }
                __from.leave(__outside);
                Ok(Self { #(#takes),* })
            }
        }
    }
}

fn union(cycles: &Cycles<'_>, name: &str, def: &TypeDef, fields: &[Field]) -> TokenStream {
    let doc = docs(&def.docs, &format!("The union `{name}`: one of these."));
    let ident = identifier(&camel(name));
    let field_docs = fields.iter().map(|field| docs(&field.docs, &format!("The variant `{}`.", field.name)));
    let names: Vec<_> = fields.iter().map(|field| identifier(&camel(&field.name))).collect();
    let types: Vec<_> = fields.iter().map(|field| field_type(cycles, name, &field.ty)).collect();
    let ids: Vec<_> = fields.iter().map(|field| Literal::u16_unsuffixed(field.id)).collect();
    let bad = camel(name);
    quote! {
        #doc
        #[derive(Clone, Debug, PartialEq)]
        pub enum #ident {
            #(#field_docs #names(#types),)*
        }

        impl rpc::Wire for #ident {
            const SHAPE: rpc::Shape = rpc::Shape::Framed;
            fn encode(&self, __out: &mut Vec<u8>) {
                let __frame = rpc::begin_frame(__out);
                match self {
                    #(Self::#names(__value) => rpc::put_variant(__out, #ids, __value),)*
                }
                rpc::end_frame(__out, __frame);
            }
            fn decode(__from: &mut rpc::Decoder<'_>) -> Result<Self, rpc::DecodeError> {
                let __outside = __from.enter()?;
                let __value = match __from.variant()? {
                    #(#ids => Self::#names(rpc::Wire::decode(__from)?),)*
                    _ => return Err(rpc::DecodeError::Bad(#bad)),
                };
                __from.leave(__outside);
                Ok(__value)
            }
        }
    }
}
