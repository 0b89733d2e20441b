"""What Nuclio calls. The work is done by hvsa_cvat, which is in the base image."""

from model_handler import ModelHandler


def init_context(context):
    context.logger.info("Loading the network...")
    try:
        context.user_data.model = ModelHandler()
    except Exception as error:
        # one line that says what to fix, before the traceback that Nuclio logs
        context.logger.error(f"This function cannot start: {error}")
        raise
    context.logger.info("Ready")


def handler(context, event):
    answer = context.user_data.model.handle(event.body)
    if answer.status != 200:
        context.logger.warn(f"Refused: {answer.body}")
    return context.Response(
        body=answer.body,
        headers={},
        content_type=answer.content_type,
        status_code=answer.status,
    )
