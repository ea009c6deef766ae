//! `#[derive(Pod)]`: structures as elements of shared memory. The crate `pagemesh` re-exports it, and the
//! generated code names nothing but `::pagemesh`, so that a program needs no other crate.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Field, Member, Result, parse_macro_input};

/// Makes a structure an element of shared memory: implements `bytemuck::Zeroable`, `bytemuck::Pod` and
/// `pagemesh::Element`, with a type tag of its fields' names, types and offsets.
///
/// The structure is `Clone` and `Copy`, has `#[repr(C)]` or `#[repr(transparent)]`, no generic parameters and
/// no padding, and all its fields are `Pod`. The compiler refuses everything else.
#[proc_macro_derive(Pod)]
pub fn derive_pod(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let DeriveInput { ident: name, data, generics, .. } = input;
    let Data::Struct(structure) = data else {
        return Err(Error::new(
            name.span(),
            "derive(Pod) is for structures: any bytes must be a valid value",
        ));
    };
    if !generics.params.is_empty() {
        let text = "derive(Pod) takes no generic parameters: padding depends on them";
        return Err(Error::new(generics.span(), text));
    }
    check_repr(input)?;

    let types: Vec<_> = structure.fields.iter().map(|field| &field.ty).collect();
    let all_are_pod = types.iter().map(|ty| quote_spanned!(ty.span()=> is_pod::<#ty>();));
    let padding = format!(
        "`{name}` has padding between or behind its fields: order them by falling alignment, and name what is left, for example `unused: [u8; 4]`"
    );
    let tags = structure.fields.iter().enumerate().map(|(index, field)| tag_of(index, field));
    Ok(quote! {
        const _: () = {
            const fn is_pod<T: ::pagemesh::Pod>() {}
            #(#all_are_pod)*
            ::core::assert!(
                ::core::mem::size_of::<#name>() == 0 #(+ ::core::mem::size_of::<#types>())*,
                #padding
            );
        };
        // SAFETY: zero bytes are a valid value of each field, as of every `Pod` type.
        #[automatically_derived]
        unsafe impl ::pagemesh::bytemuck::Zeroable for #name {}
        // SAFETY: the order of the fields is fixed, there is nothing between and behind them, and all of
        // them are `Pod`.
        #[automatically_derived]
        unsafe impl ::pagemesh::bytemuck::Pod for #name {}
        #[automatically_derived]
        impl ::pagemesh::Element for #name {
            fn type_tag() -> ::core::option::Option<::pagemesh::TypeTag> {
                ::pagemesh::derived::structure(&[#(#tags),*])
            }
        }
    })
}

/// The order of fields must be the written one: it is part of what programs agree on.
fn check_repr(input: &DeriveInput) -> Result<()> {
    let mut fixed = false;
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("repr")) {
        attribute.parse_nested_meta(|meta| {
            fixed |= meta.path.is_ident("C") || meta.path.is_ident("transparent");
            if meta.input.peek(syn::token::Paren) {
                // `packed(2)`, `align(8)`: the number is the compiler's concern.
                let number;
                syn::parenthesized!(number in meta.input);
                number.parse::<TokenStream>()?;
            }
            Ok(())
        })?;
    }
    if fixed {
        return Ok(());
    }
    let text = "derive(Pod) needs #[repr(C)] or #[repr(transparent)]: programs agree on the fields' order";
    Err(Error::new(input.ident.span(), text))
}

/// An expression for the part of the tag that one field is.
fn tag_of(index: usize, field: &Field) -> TokenStream {
    let ty = &field.ty;
    let member = field.ident.clone().map_or(Member::from(index), Member::from);
    let name = match &member {
        Member::Named(ident) => ident.unraw().to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    };
    quote!(::pagemesh::derived::field::<#ty>(#name, ::core::mem::offset_of!(Self, #member)))
}

#[cfg(test)]
mod tests {
    use super::expand;

    fn refusal(text: &str) -> String {
        let input = syn::parse_str(text).expect("an item");
        expand(&input).expect_err("it is refused").to_string()
    }

    #[test]
    fn what_cannot_be_plain_is_refused_with_the_reason() {
        assert!(refusal("enum Colour { Red }").contains("for structures"));
        assert!(refusal("union Both { a: u32, b: f32 }").contains("for structures"));
        assert!(refusal("struct Point { x: f64 }").contains("#[repr(C)]"));
        assert!(refusal("#[repr(packed)] struct Point { x: f64 }").contains("#[repr(C)]"));
        assert!(refusal("#[repr(C)] struct Pair<T> { one: T, two: T }").contains("generic"));
    }

    #[test]
    fn layouts_in_a_fixed_order_are_accepted() {
        for repr in ["C", "transparent", "C, packed", "C, packed(2)", "align(8), C"] {
            let input = syn::parse_str(&format!("#[repr({repr})] struct Point {{ x: f64 }}"));
            assert!(expand(&input.expect("an item")).is_ok(), "{repr}");
        }
    }
}
