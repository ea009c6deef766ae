//! `tonic` without a protocol compiler: the message by derive, the service as generated code has it.

use std::convert::Infallible;
use std::net::SocketAddr;

use tonic::codegen::{Body, BoxFuture, Context, Poll, Service, StdError, http};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::{Failure, Result};

const PATH: &str = "/bench.Echo/Echo";

#[derive(Clone, PartialEq, prost::Message)]
struct Payload {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
}

#[derive(Clone)]
struct Server;

struct EchoMethod;

impl tonic::server::UnaryService<Payload> for EchoMethod {
    type Response = Payload;
    type Future = BoxFuture<Response<Payload>, Status>;

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(request.into_inner())) })
    }
}

impl tonic::server::NamedService for Server {
    const NAME: &'static str = "bench.Echo";
}

impl<B> Service<http::Request<B>> for Server
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        Box::pin(async move {
            let codec = ProstCodec::<Payload, Payload>::default();
            Ok(tonic::server::Grpc::new(codec).unary(EchoMethod, request).await)
        })
    }
}

pub(crate) async fn serve(listener: tokio::net::TcpListener) -> Result<()> {
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    tonic::transport::Server::builder().add_service(Server).serve_with_incoming(incoming).await?;
    Ok(())
}

#[derive(Clone)]
pub(crate) struct EchoClient(tonic::client::Grpc<tonic::transport::Channel>);

pub(crate) async fn connect(addr: SocketAddr) -> Result<EchoClient> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{addr}"))?.tcp_nodelay(true);
    Ok(EchoClient(tonic::client::Grpc::new(endpoint.connect().await?)))
}

impl EchoClient {
    pub(crate) async fn echo(&mut self, data: Vec<u8>) -> std::result::Result<Vec<u8>, Failure> {
        self.0.ready().await?;
        let path = http::uri::PathAndQuery::from_static(PATH);
        let codec = ProstCodec::<Payload, Payload>::default();
        let response = self.0.unary(Request::new(Payload { data }), path, codec).await?;
        Ok(response.into_inner().data)
    }
}
