"""Names that the models, as botocore ships them, do not carry although the wire needs them.

Each is a trait of the service's own Smithy model that botocore's format has no place for, or that went
when the service's first protocol was replaced.
"""

QUERY_NAMES: dict[str, dict[tuple[str, str], str]] = {
    # SQS spoke the query protocol until 2023 and still does with clients of that age.
    # Keys are (shape, member). Source: botocore 1.31.80, sqs 2012-11-05.
    "sqs": {
        ("AWSAccountIdList", "member"): "AWSAccountId",
        ("ActionNameList", "member"): "ActionName",
        ("AttributeNameList", "member"): "AttributeName",
        ("BatchResultErrorEntryList", "member"): "BatchResultErrorEntry",
        ("BinaryList", "member"): "BinaryListValue",
        (
            "ChangeMessageVisibilityBatchRequestEntryList",
            "member",
        ): "ChangeMessageVisibilityBatchRequestEntry",
        ("ChangeMessageVisibilityBatchResultEntryList", "member"): "ChangeMessageVisibilityBatchResultEntry",
        ("DeleteMessageBatchRequestEntryList", "member"): "DeleteMessageBatchRequestEntry",
        ("DeleteMessageBatchResultEntryList", "member"): "DeleteMessageBatchResultEntry",
        ("MessageAttributeNameList", "member"): "MessageAttributeName",
        ("MessageSystemAttributeList", "member"): "MessageSystemAttributeName",
        ("MessageList", "member"): "Message",
        ("QueueUrlList", "member"): "QueueUrl",
        ("SendMessageBatchRequestEntryList", "member"): "SendMessageBatchRequestEntry",
        ("SendMessageBatchResultEntryList", "member"): "SendMessageBatchResultEntry",
        ("StringList", "member"): "StringListValue",
        ("TagKeyList", "member"): "TagKey",
        ("MessageBodyAttributeMap", "key"): "Name",
        ("MessageBodyAttributeMap", "value"): "Value",
        ("MessageBodySystemAttributeMap", "key"): "Name",
        ("MessageBodySystemAttributeMap", "value"): "Value",
        ("MessageSystemAttributeMap", "key"): "Name",
        ("MessageSystemAttributeMap", "value"): "Value",
        ("QueueAttributeMap", "key"): "Name",
        ("QueueAttributeMap", "value"): "Value",
        ("TagMap", "key"): "Key",
        ("TagMap", "value"): "Value",
        ("CreateQueueRequest", "Attributes"): "Attribute",
        ("CreateQueueRequest", "tags"): "Tag",
        ("GetQueueAttributesResult", "Attributes"): "Attribute",
        ("ListQueueTagsResult", "Tags"): "Tag",
        ("Message", "Attributes"): "Attribute",
        ("Message", "MessageAttributes"): "MessageAttribute",
        ("SendMessageBatchRequestEntry", "MessageAttributes"): "MessageAttribute",
        ("SendMessageBatchRequestEntry", "MessageSystemAttributes"): "MessageSystemAttribute",
        ("SendMessageRequest", "MessageAttributes"): "MessageAttribute",
        ("SendMessageRequest", "MessageSystemAttributes"): "MessageSystemAttribute",
        ("SetQueueAttributesRequest", "Attributes"): "Attribute",
        ("TagQueueRequest", "Tags"): "Tag",
    },
}
"""The query protocol's names of list elements, map keys and values, and members."""

QUERY_ERROR_CODES: dict[str, dict[str, str]] = {
    "sqs": {
        "BatchEntryIdsNotDistinct": "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
        "BatchRequestTooLong": "AWS.SimpleQueueService.BatchRequestTooLong",
        "EmptyBatchRequest": "AWS.SimpleQueueService.EmptyBatchRequest",
        "InvalidBatchEntryId": "AWS.SimpleQueueService.InvalidBatchEntryId",
        "MessageNotInflight": "AWS.SimpleQueueService.MessageNotInflight",
        "PurgeQueueInProgress": "AWS.SimpleQueueService.PurgeQueueInProgress",
        "QueueDeletedRecently": "AWS.SimpleQueueService.QueueDeletedRecently",
        "QueueDoesNotExist": "AWS.SimpleQueueService.NonExistentQueue",
        "QueueNameExists": "QueueAlreadyExists",
        "TooManyEntriesInBatchRequest": "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
        "UnsupportedOperation": "AWS.SimpleQueueService.UnsupportedOperation",
    },
}
"""Error shapes -> the codes of the query protocol, which older clients match (trait awsQueryError)."""

XML_NAMESPACES = {
    "s3": "http://s3.amazonaws.com/doc/2006-03-01/",
    "sqs": "http://queue.amazonaws.com/doc/2012-11-05/",
}
"""Where the service's metadata has none."""

ROOT_ELEMENTS = {
    "CompleteMultipartUploadOutput": "CompleteMultipartUploadResult",
    "CreateMultipartUploadOutput": "InitiateMultipartUploadResult",
    "DeleteObjectsOutput": "DeleteResult",
    "GetBucketAclOutput": "AccessControlPolicy",
    "GetBucketCorsOutput": "CORSConfiguration",
    "GetBucketLifecycleConfigurationOutput": "LifecycleConfiguration",
    "GetBucketLocationOutput": "LocationConstraint",
    "GetBucketLoggingOutput": "BucketLoggingStatus",
    "GetBucketTaggingOutput": "Tagging",
    "GetBucketVersioningOutput": "VersioningConfiguration",
    "GetBucketWebsiteOutput": "WebsiteConfiguration",
    "GetObjectAclOutput": "AccessControlPolicy",
    "GetObjectAttributesOutput": "GetObjectAttributesResponse",
    "GetObjectTaggingOutput": "Tagging",
    "ListBucketsOutput": "ListAllMyBucketsResult",
    "ListMultipartUploadsOutput": "ListMultipartUploadsResult",
    "ListObjectVersionsOutput": "ListVersionsResult",
    "ListObjectsOutput": "ListBucketResult",
    "ListObjectsV2Output": "ListBucketResult",
    "ListPartsOutput": "ListPartsResult",
}
"""S3's output shapes -> root elements of their documents (trait xmlName); botocore does not look at them."""

VALIDATION_CODES = {
    "sagemaker": "ValidationException",
    "application-autoscaling": "ValidationException",
    "logs": "InvalidParameterException",
    "s3": "InvalidArgument",
    "sqs": "InvalidParameterValue",
}
"""What a service calls a parameter outside its constraints, where that is not ValidationError."""

ERROR_NAMESPACES = {"sqs": "com.amazonaws.sqs#"}
"""What stands before an error's name in JSON, where a service writes it."""

S3_VALIDATION_CODES = {
    "createBucketConfiguration.locationConstraint": "InvalidLocationConstraint",
    "storageClass": "InvalidStorageClass",
}
"""What S3 calls some parameters outside their constraints; others of a document are MalformedXML."""

MINIMUMS = {"sagemaker": {"InitialTaskCount": 0}}
"""Where we allow less than the model: an endpoint may begin with no instance."""
